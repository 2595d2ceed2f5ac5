"""The model card of a registered version: what it does, how good it is and where it is weak, and how to repeat it.

Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from satx.evaluation.metrics import positives_over_threshold
from satx.inference.manifest import Export
from satx.registry.candidate import Candidate
from satx.registry.card_origin import origin_sections
from satx.registry.card_rendering import Section, Table, render_html, render_markdown
from satx.registry.card_scores import AT_THRESHOLD, scores_section, shown_score, weakness_section
from satx.registry.judged import Evaluation, Forced, GateFile, Verdict, outcome_of
from satx.reports.parameters import NOTHING
from satx.tracking.naming import run_page


@dataclass(frozen=True)
class CardFacts:
    """What a model card tells about.

    Attributes:
        candidate: The run, its model, session and tiles.
        name: Name of the registered model.
        version: Its version.
        evaluation: Scores, temperature and threshold.
        verdicts: What each rule says.
        forced: Who promoted it against the gate, and why; None if the gate let it pass.
        champion_text: Sentences about the comparison with the champion at that time.
        export: The SavedModel of the version.
        gate: The file with the rules; None if they were set in Python.
    """

    candidate: Candidate
    name: str
    version: int
    evaluation: Evaluation
    verdicts: tuple[Verdict, ...]
    forced: Forced | None
    champion_text: tuple[str, ...]
    export: Export
    gate: GateFile | None = None


@dataclass(frozen=True)
class Card:
    """A model card.

    Attributes:
        markdown: Text and tables, for MLflow's description of the version.
        html: The same with figures and thumbnails, as one file.
    """

    markdown: str
    html: str


def model_card(facts: CardFacts) -> Card:
    """Write the model card of a version."""
    title = f"{facts.name}, version {facts.version}"
    sections = (
        _task(facts),
        _gate(facts),
        scores_section(facts.evaluation, facts.candidate.classifier),
        _operating_point(facts),
        weakness_section(facts.candidate, facts.evaluation),
        _limits(facts),
        *origin_sections(facts.candidate, facts.export, facts.gate),
    )
    return Card(render_markdown(title, sections), render_html(title, sections))


def shortened(markdown: str, *, max_chars: int) -> str:
    """Return the sections of a card that fit into a field of limited length, and a note if some were left out."""
    if len(markdown) <= max_chars:
        return markdown
    note = "\n\nThis card goes on in `model_card.html`, in the folder `card` of the run's artifacts.\n"
    kept = markdown[: max_chars - len(note)]
    end = max(kept.rfind("\n\n## "), kept.rfind("\n\n", 0, kept.find("\n\n## ")))
    return kept[: end if end > 0 else kept.rfind("\n")] + note


def _task(facts: CardFacts) -> Section:
    classifier, run = facts.candidate.classifier, facts.candidate.run
    *others, last = classifier.classes
    size_px = classifier.image_size_px
    paragraphs = [
        f"Tells the classes {', '.join(others)} and {last} apart on aerial tiles of {size_px} × {size_px} pixels. The class "
        f"of interest is {classifier.positive_class}. From the run {run.info.run_name}, id {run.info.run_id}."
    ]
    if classifier.sample:
        paragraphs.append("Trained on rendered sample tiles, not on photographs. Do not use it on real tiles.")
    return Section(f"Task: {classifier.task}", tuple(paragraphs), links=(("Open the run", run_page(run)),))


def _gate(facts: CardFacts) -> Section:
    paragraphs = [f"{outcome_of(facts.verdicts, facts.gate)}."]
    if facts.forced is not None:
        by, at, reason = facts.forced.by, facts.forced.at, facts.forced.reason
        paragraphs.append(f"Promoted against the gate by {by} at {at}. Reason: {reason}")
    rows = tuple(
        (verdict.rule, verdict.result, verdict.asked or NOTHING, verdict.seen if verdict.asked else NOTHING)
        for verdict in facts.verdicts
    )
    table = Table(("Rule", "Result", "Asked", "Seen"), rows)
    return Section("Verdict of the gate", (*paragraphs, *facts.champion_text), tables=(table,) if rows else ())


def _operating_point(facts: CardFacts) -> Section:
    evaluation, classifier = facts.evaluation, facts.candidate.classifier
    positive, before, after = classifier.positive_class, evaluation.valid_loss_before, evaluation.valid_loss_after
    if evaluation.temperature == 1:
        temperature = (
            f"No temperature is in use: none lowers the log loss of the validation tiles, {before:.4f} nats. "
            f"Probabilities are those of the network."
        )
    else:
        temperature = (
            f"Probabilities are {evaluation.temperature_effect}, which divides the logits. It is in use because it lowers the "
            f"log loss of the validation tiles from {before:.4f} to {after:.4f} nats."
        )
    paragraphs = [
        temperature,
        f"A tile counts as {positive} from a probability of {evaluation.threshold:.4f}. The rule "
        f"{evaluation.threshold_rule} chose this threshold on the validation tiles, after calibration.",
    ]
    if not len(evaluation.labels):
        return Section("Temperature and threshold", tuple(paragraphs))
    rate = evaluation.after.interval("false_positive_rate")
    if math.isfinite(rate.value):
        value, low, high = (f"{1000 * share:.0f}" for share in (rate.value, rate.low, rate.high))
        paragraphs.append(
            f"Of 1,000 tiles without {positive}, expect about {value} to be flagged ({low} to {high}), if they resemble those of "
            f"the session. Where {positive} is rare, most flagged tiles may therefore be wrong."
        )
    return Section("Temperature and threshold", tuple(paragraphs), tables=(_counts(facts),))


def _counts(facts: CardFacts) -> Table:
    """Return what the threshold means for the test tiles, in counts."""
    evaluation, classifier = facts.evaluation, facts.candidate.classifier
    flagged = positives_over_threshold(
        evaluation.probabilities, positive_index=classifier.positive_index, threshold=evaluation.threshold
    )
    rows = []
    for index, name in enumerate(classifier.classes):
        of_class = flagged[evaluation.labels == index]  # (n,) bool
        share = f"{of_class.mean():.1%}" if len(of_class) else NOTHING
        rows.append((name, f"{len(of_class):,}", f"{of_class.sum():,}", f"{(~of_class).sum():,}", share))
    scores = ", ".join(
        f"{label.lower()} {shown_score(evaluation.after, metric)}" for metric, label in AT_THRESHOLD.items()
    )
    headings = ("True class", "Test tiles", "At or above the threshold", "Below", "Share at or above")
    return Table(headings, tuple(rows), f"Of {classifier.positive_class} against the rest: {scores}.")


def _limits(facts: CardFacts) -> Section:
    classifier, evaluation = facts.candidate.classifier, facts.evaluation
    positive, index = classifier.positive_class, classifier.positive_index
    use = (
        f"Use it to find tiles that may be of class {positive} among many, for a person to check each of them before anything "
        f"is mapped or decided."
    )
    of_class = evaluation.probabilities[evaluation.labels == index, index]  # (n,) float32
    num_missed = int((of_class < evaluation.threshold).sum())
    missed = f": on the test tiles, {num_missed:,} of {len(of_class):,} were missed" if len(of_class) else ""
    points = [
        "A probability is no proof. The model sees one tile at a time, without its neighbors, its date or any other source.",
        f"A tile below the threshold may still be {positive}{missed}. Do not use it to conclude that a place has none.",
        "Scores hold for tiles like those of the session. Other regions, seasons, sensors, zooms or kinds of buildings and land "
        "give others, above all more false positives. Test it on labeled tiles of the place first.",
        f"Probabilities fit the session's share of {positive}. Where it is rarer, they are too high.",
        f"It knows {len(classifier.classes)} classes and assigns every tile to one of them, also pictures that show no land.",
    ]
    return Section("Intended use and limits", (use,), points=tuple(points))
