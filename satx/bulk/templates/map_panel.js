// What is beside the map: histogram, counts, list, and the panel of one tile. `map.js` has the state.

const LISTED = 200;
const NUM_BARS = 48;

// --- threshold

const makeHistogram = () => {
  const counts = new Array(NUM_BARS).fill(0);
  const width = (1 - data.lowest) / NUM_BARS || 1;
  for (const probability of points.probability)
    counts[Math.min(NUM_BARS - 1, Math.max(0, Math.floor((probability - data.lowest) / width)))]++;
  const most = Math.log1p(Math.max(...counts));
  const bars = counts.map((count, place) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const height = count ? Math.max(1.5, (46 * Math.log1p(count)) / most) : 0;
    const box = { x: place * 10 + 0.6, y: 48 - height, width: 8.8, height };
    for (const [name, value] of Object.entries(box)) bar.setAttribute(name, value);
    return bar;
  });
  element("histogram").append(...bars);
  return (threshold) =>
    bars.forEach((bar, place) => {
      const end = data.lowest + (place + 1) * width; // a bar in which the threshold lies counts as found
      bar.setAttribute("class", end > threshold ? "found" : state.uncertain && end > uncertainFrom() ? "uncertain" : "");
    });
};

const writeCounts = (found) => {
  const uncertain = numAtLeast(points, uncertainFrom()) - found;
  element("count").replaceChildren(
    make("strong", { textContent: number.format(found) }), ` tile${found === 1 ? "" : "s"} at or above ${shown(state.threshold)}`,
  );
  element("uncertain-count").textContent =
    `${counted(uncertain, "uncertain tile")}, from ${shown(uncertainFrom())} to ${shown(state.threshold)}`;
  element("slider").setAttribute("aria-valuetext", `${shown(state.threshold)}: ${counted(found, "tile")}`);
  element("own-threshold").hidden = state.threshold === data.threshold;
};

// --- list

const pictureOf = (index) => {
  const picture = data.thumbnails[index];
  return picture ? make("img", { src: `data:image/jpeg;base64,${picture}`, alt: "", loading: "lazy" }) : "";
};

const makeList = (open) => {
  const list = element("list");
  for (let index = 0; index < Math.min(LISTED, points.count); index++) {
    const text = make("span", { className: "name", textContent: points.nameOf(index) });
    const value = make("span", { className: "value", textContent: points.probability[index].toFixed(4) });
    const button = make("button", { type: "button", tabIndex: index ? -1 : 0 }, pictureOf(index), text, value);
    button.addEventListener("click", () => open(index, button, true));
    list.append(make("li", {}, button));
  }
  const buttons = [...list.querySelectorAll("button")];
  list.addEventListener("keydown", (event) => {
    const visible = buttons.slice(0, numFound());
    const here = visible.indexOf(document.activeElement);
    const to = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: visible.length - 1 }[event.key];
    if (to === undefined || here < 0) return;
    event.preventDefault();
    visible[Math.min(visible.length - 1, Math.max(0, to))].focus();
  });
  list.addEventListener("focusin", (event) => buttons.forEach((one) => (one.tabIndex = one === event.target ? 0 : -1)));
  return (found) => {
    buttons.forEach((button, index) => (button.parentElement.hidden = index >= found));
    if (buttons.findIndex((button) => button.tabIndex === 0) >= found) buttons.forEach((one, index) => (one.tabIndex = index ? -1 : 0));
    element("list-note").textContent = found === 0 ? "No tile reaches this threshold."
      : found > LISTED ? `The ${LISTED} highest of ${number.format(found)}.` : "";
  };
};

// --- panel

const copyText = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = make("textarea", { value: text, className: "unseen" });
    element("panel").append(field);
    field.select();
    const done = document.execCommand("copy"); // where a page of a file may not use the clipboard
    field.remove();
    return done;
  }
};

const fillPanel = (index) => {
  const [longitude, latitude] = centerOf(index);
  const place = `${latitude.toFixed(6)}, ${longitude.toFixed(6)}`;
  const zoom = Math.min(points.z[index], 19);
  element("panel-name").textContent = points.nameOf(index);
  element("panel-probability").textContent = points.probability[index].toFixed(4);
  element("panel-place").textContent = place;
  element("panel-tile").textContent = `zoom ${points.z[index]}, column ${points.x[index]}, row ${points.y[index]}`;
  element("panel-rank").textContent = `${number.format(index + 1)} of ${number.format(points.count)}`;
  element("panel-picture").replaceChildren(pictureOf(index));
  element("panel-link").href = `https://www.openstreetmap.org/#map=${zoom}/${latitude.toFixed(6)}/${longitude.toFixed(6)}`;
  element("panel-copy").textContent = "Copy coordinates";
  element("panel-before").disabled = index === 0;
  element("panel-next").disabled = index + 1 >= points.count;
};

// From the middle of the map to the middle of what the panel leaves of it: beside the panel, or above it on a phone.
const besidePanel = (map) => {
  const [{ width, height }, whole] = [element("panel").getBoundingClientRect(), map.getContainer().clientWidth];
  return width > 0.8 * whole ? [0, -height / 2] : whole > 2 * width ? [0, 0] : [width / 2, 0];
};
const isUnderPanel = (map, center) => {
  const [panel, frame] = [element("panel").getBoundingClientRect(), map.getContainer().getBoundingClientRect()];
  const { x, y } = map.project(center);
  const [left, top] = [x + frame.left, y + frame.top];
  return left > panel.left - 20 && left < panel.right + 20 && top > panel.top - 20 && top < panel.bottom + 20;
};

const makePanel = (map, announce) => {
  const mark = () => {
    const index = state.chosen;
    map.getSource("chosen").setData(features(index === null ? [] : [feature("Point", centerOf(index))]));
    map.getSource("chosen-tile").setData(features(index === null ? [] : [feature("LineString", footprintOf(index))]));
  };
  const close = () => {
    if (state.chosen === null) return;
    state.chosen = null;
    element("panel").hidden = true;
    mark();
    (state.opener?.offsetParent ? state.opener : map.getCanvas()).focus({ preventScroll: true });
  };
  const open = (index, opener, flies) => {
    if (opener) state.opener = opener;
    state.chosen = index;
    fillPanel(index);
    element("panel").hidden = false;
    element("panel").focus({ preventScroll: true });
    mark();
    const place = { center: centerOf(index), offset: besidePanel(map) };
    if (flies) map.flyTo({ ...place, zoom: Math.max(map.getZoom(), points.z[index] - 3), maxDuration: 1500 });
    else if (isUnderPanel(map, place.center)) map.easeTo(place);
    announce();
  };
  const step = (by) => open(state.chosen + by, null, true);
  element("panel-close").addEventListener("click", close);
  element("panel-before").addEventListener("click", () => step(-1));
  element("panel-next").addEventListener("click", () => step(1));
  element("panel-copy").addEventListener("click", async () => {
    const done = await copyText(element("panel-place").textContent);
    element("panel-copy").textContent = done ? "Copied" : "Not allowed to copy";
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && close());
  return open;
};
