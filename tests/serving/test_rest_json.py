"""Tests of the JSON of the REST interface: requests to tensors, tensors to responses."""

from __future__ import annotations

import base64
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.serving.contract import Servable, ServingError, Signature
from satx.serving.json_request import PredictRequest, parse_json, parse_predict
from satx.serving.json_response import format_error, format_predict
from satx.serving.json_tensor import MAX_TEXT_CHARS, decode_base64, json_text, read_tensor
from serving.fake_models import SIGNATURES, spec

TILE = bytes(range(256)) * 3
G = {"b64": base64.b64encode(TILE).decode()}
TYPED = Signature(
    {
        "double": spec(np.float64, None),
        "int64": spec(np.int64, None),
        "uint64": spec(np.uint64, None),
        "int8": spec(np.int8, None),
    },
    {},
    "",
)
SCHOOL = Servable(
    "school",
    3,
    SIGNATURES
    | {"typed": TYPED, "none": Signature({}, {}, ""), "fixed": Signature({"x": spec(np.float32, 200)}, {}, "")},
)


def parse(body: object) -> PredictRequest:
    return parse_predict(body if isinstance(body, bytes) else json.dumps(body).encode(), SCHOOL)


def refusal(body: object) -> str:
    with pytest.raises(ServingError) as error:
        parse(body)
    assert error.value.status == 400
    return error.value.message


@pytest.mark.parametrize(
    ("body", "row_format"),
    [
        ({"instances": [{"image_bytes": G}] * 2}, True),
        ({"instances": [G, G]}, True),
        ({"inputs": {"image_bytes": [G, G]}}, False),
        ({"inputs": [G, G]}, False),
        ({"inputs": {"image_bytes": [G, G], "x": 1}}, False),
        ({"signature_name": "serving_default", "instances": [G, G], "other": None}, True),
        ({"signature_name": "", "instances": [G, G]}, True),
    ],
)
def test_all_forms_of_a_request_give_the_same_tensor(body: object, row_format: bool) -> None:
    request = parse(body)
    assert request.signature_name == "serving_default"
    assert request.row_format is row_format
    assert request.inputs["image_bytes"].tolist() == [TILE, TILE]
    assert request.rows == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b" \n", "JSON Parse error: The document is empty. at offset: 2"),
        (b"instances=[1]", "JSON Parse error: Invalid value. at offset: 0"),
        ('{"é": tru}'.encode(), "JSON Parse error: Invalid value. at offset: 7"),
        (b'{"a": 1', "JSON Parse error: Missing a comma or a closing bracket. at offset: 7"),
        (b'{"a', "JSON Parse error: Missing a closing quotation mark in string. at offset: 1"),
        (b'{"a": "\\x"}', "JSON Parse error: Invalid escape character in string. at offset: 7"),
        (b'{"a": "\xff"}', "JSON Parse error: Invalid encoding in string. at offset: 7"),
        (b'{"a": ' + b"9" * 5000 + b"}", "JSON Parse error: Number too big to be stored in double. at offset: 0"),
        (b"[1]", "JSON Value: [\n    1\n] Is not object"),
        (b"NaN", "JSON Value: NaN Is not object"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_in_the_words_of_tensorflow_serving(body: bytes, message: str) -> None:
    assert refusal(body) == message


PROCESS = "Failed to process element: 0 key: image_bytes of 'instances' list. Error: INVALID_ARGUMENT: "


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"instances": [{"image_bytes": {"b64": "a-_b"}}]}, PROCESS + "Unable to base64 decode"),
        (
            {"instances": [{"image_bytes": {"b64": 1}}]},
            PROCESS + 'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data',
        ),
        (
            {"instances": [{"image_bytes": 7}]},
            PROCESS + "JSON Value: 7 Type: Number is not of expected type: string",
        ),
        (
            {"instances": [{"image_bytes": True}]},
            PROCESS + "JSON Value: true Type: True is not of expected type: string",
        ),
        (
            {"instances": [None]},
            "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: null Type: Null is not "
            "of expected type: string",
        ),
        (
            {"instances": [{"img": G}]},
            "Failed to process element: 0 key: img of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have "
            "named input: img",
        ),
        (
            {"instances": [{}]},
            "Failed to process element: 0 of 'instances' list. JSON object: {} keys must be equal to: image_bytes",
        ),
        ({"instances": [{"image_bytes": G}, 1]}, "Expecting object but got list at item 1 of input list"),
        ({"instances": ["a", {"image_bytes": G}]}, "Expecting value/list but got object at item 1 of input list"),
        ({"instances": []}, "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        ({"instances": {}}, "JSON Value: {\n    \"instances\": {}\n} Expecting 'instances' to be an list/array"),
        (
            {"inputs": 1, "instances": 1},
            'JSON Value: {\n    "inputs": 1,\n    "instances": 1\n} Not formatted correctly expecting only one of '
            "'inputs' or 'instances' keys to exist",
        ),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": {}}, "Missing named input: image_bytes in 'inputs' object."),
        (
            {"signature_name": 100},
            "JSON Value: {\n    \"signature_name\": 100\n} not formatted correctly. 'signature_name' key must be a string "
            "value.",
        ),
        ({"signature_name": "x", "instances": [G]}, 'Serving signature name: "x" not found in signature def'),
        ({"signature_name": "none", "instances": [G]}, "Failed to get input map for signature: none"),
        ({"instances": [{"image_bytes": [G]}]}, "Input image_bytes: expected shape [-1], got [1, 1]"),
        ({"inputs": G}, "Input image_bytes: expected shape [-1], got []"),
        ({"instances": ["\udc80"]}, "The surrogate pair in string is invalid."),
        (
            {"signature_name": "pair", "instances": [1]},
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map",
        ),
        (
            {"signature_name": "pair", "inputs": [1]},
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map",
        ),
        (
            {"signature_name": "pair", "instances": [{"a": 1}]},
            "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"a\": 1\n} keys must be equal to: a,b",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_refused_in_the_words_of_tensorflow_serving(body: object, message: str) -> None:
    assert refusal(body).endswith(message)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            [[[[1, 2, 3]], [[1, 2, 3], [1, 2, 3]]]],
            "Encountered list at unexpected size: 2 at level: 2 expected size: 1",
        ),
        ([[[[1, 2, 3]], 1]], "JSON Value: 1 found at incorrect level: 3 in the JSON DOM. Expected at level: 4"),
        ([[[[1, [2], 3]]]], "Encountered list at unexpected level: 4 expected < 4"),
        ([[[[1, 2.0, 3]]]], "JSON Value: 2.0 Type: Number is not of expected type: uint8"),
        ([[[[1, 256, 3]]]], "JSON Value: 256 Type: Number is not of expected type: uint8"),
        ([[[[1, True, 3]]]], "JSON Value: true Type: True is not of expected type: uint8"),
        ([[[[1, "2", 3]]]], 'JSON Value: "2" Type: String is not of expected type: uint8'),
        ([[[[1, {"b64": "AA=="}, 3]]]], "Type: Object is not of expected type: uint8"),
        ([[[[1, 2]]]], "Input images: expected shape [-1, -1, -1, 3], got [1, 1, 1, 2]"),
    ],
)
def test_ragged_and_wrong_pixels_are_refused(images: object, message: str) -> None:
    assert refusal({"signature_name": "images", "inputs": {"images": images}}).endswith(message)


def test_rows_of_different_shapes_are_refused() -> None:
    def body(*rows: object) -> dict[str, object]:
        return {"signature_name": "images", "instances": list(rows)}

    small, wide, high = [[[1, 2, 3]]], [[[1, 2, 3]] * 2], [[[1, 2, 3]]] * 2
    assert refusal(body(small, wide)).endswith("Expecting tensor size: 3 but got: 6")
    assert refusal(body(wide, high)).endswith("Expecting shape [1,2,3] but got: [2,1,3]")
    pixels = parse(body(wide, wide)).inputs["images"]
    assert pixels.shape == (2, 1, 2, 3)
    assert pixels.dtype == np.uint8


def test_floats_accept_nan_infinity_and_numbers_that_they_represent() -> None:
    request = parse(b'{"signature_name": "floats", "instances": [[NaN, -Infinity], [16777215, 1e-50]]}')
    x = request.inputs["x"]
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [[np.nan, -np.inf], [16777215, 0]])
    for row in ([2**70, 2**64], [-(2**63) - 1, 1.5e30]):  # RapidJSON reads them as doubles
        assert parse({"signature_name": "floats", "instances": [row]}).inputs["x"].tolist() == [
            np.float32(row).tolist()
        ]


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [0] * 129},
        {"instances": [{"image_bytes": 0}] * 129},
        {"inputs": [0] * 129},
        {"inputs": {"image_bytes": [0] * 129}},
        {"signature_name": "pair", "instances": [{"a": "x", "b": "x"}] * 129},
        {"signature_name": "pair", "inputs": {"a": [1], "b": [0] * 129}},
    ],
)
def test_too_many_rows_are_refused_before_their_values_are_read(body: object) -> None:
    assert refusal(body) == "Task size 129 is larger than maximum input batch size 128"


def test_a_first_axis_of_known_size_may_be_longer_than_a_batch_but_not_longer_than_that_size() -> None:
    request = parse({"signature_name": "fixed", "instances": [1.0] * 200})
    assert (request.inputs["x"].shape, request.rows) == ((200,), 1)
    assert parse({"signature_name": "fixed", "inputs": [1.0] * 200}).rows == 1
    assert refusal({"signature_name": "fixed", "instances": ["x"] * 201}) == (
        "Task size 201 is larger than maximum input batch size 200"
    )
    assert refusal({"signature_name": "fixed", "inputs": [1.0]}) == "Input x: expected shape [200], got [1]"


@pytest.mark.parametrize("number", ["16777217", "-16777217", "1e39", "9223372036854775808", str(2**64 - 1)])
def test_numbers_that_a_float_cannot_represent_are_refused(number: str) -> None:
    message = refusal(f'{{"signature_name": "floats", "instances": [[0, {number}]]}}'.encode())
    assert "Cannot convert JSON value: " in message
    assert message.endswith(" to float without loss of precision.")


def test_integers_are_exact_to_the_limits_of_their_type() -> None:
    row = {"double": 2**53 - 1, "int64": -(2**63), "uint64": 2**64 - 1, "int8": -128}
    inputs = parse({"signature_name": "typed", "instances": [row]}).inputs
    assert {name: values.tolist() for name, values in inputs.items()} == {name: [value] for name, value in row.items()}
    for name, value in {"double": 2**53, "int64": 2**63, "uint64": -1, "int8": 128}.items():
        assert f"key: {name}" in refusal({"signature_name": "typed", "instances": [row | {name: value}]})
    assert "Number too big" in refusal({"signature_name": "typed", "instances": [row | {"double": 10**400}]})


def test_a_type_that_json_cannot_express_is_not_implemented() -> None:
    with pytest.raises(ServingError, match="Conversion of JSON Value: 1 to type: half") as error:
        read_tensor([1], np.dtype(np.float16))
    assert error.value.status == 501


def test_text_after_the_request_and_a_byte_order_mark_are_ignored() -> None:
    body = json.dumps({"instances": [G]}).encode()
    for around in (body + b" and [more", b"\xef\xbb\xbf" + body, b"\n " + body):
        assert parse(around).inputs["image_bytes"].tolist() == [TILE]


@pytest.mark.parametrize(
    "deep", [b"[" * 100_000, b'{"a":' * 100_000, b'{"instances":' + b"[" * 900 + b"]" * 900 + b"}"]
)
def test_deep_nesting_is_refused(deep: bytes) -> None:
    assert "levels of lists" in refusal(deep)


def test_a_document_of_too_many_values_is_refused_before_it_takes_memory() -> None:
    body = b'{"instances": [' + b"[]," * 3_000_000 + b"[]]}"
    tracemalloc.start()
    with pytest.raises(
        ServingError, match=r"expected at most 1,500,000 values, got 6,000,00\d\. Send images as base64"
    ):
        parse_json(body)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "data"),
    [("YQ==", b"a"), ("YQ", b"a"), ("YQ..", b"a"), (" Y\nQ =\t= ", b"a"), ("", b""), ("YWI=", b"ab"), ("YWI", b"ab")],
)
def test_base64_is_read_as_abseil_reads_it(text: str, data: bytes) -> None:
    assert decode_base64(text) == data


@pytest.mark.parametrize("text", ["YQ=", "Y", "YQ===", "a-_b", "YQ==YQ==", "Y=Q=", "é", "=", "YQ==="])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ServingError, match="Unable to base64 decode"):
        decode_base64(text)


@given(st.binary())
def test_all_bytes_survive_base64_with_and_without_padding(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert decode_base64(text) == decode_base64(text.rstrip("=")) == data


def values() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(G)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["b64", "x", "images"]), inner),
        max_leaves=12,
    )


@given(
    st.sampled_from(["serving_default", "floats", "images", "pair", "typed"]),
    st.sampled_from(["inputs", "instances"]),
    values(),
)
def test_whatever_a_request_holds_it_is_read_or_refused_with_a_message(name: str, key: str, value: Any) -> None:
    try:
        request = parse({"signature_name": name, key: value})
    except ServingError as error:
        assert error.status == 400
        assert error.message
        json.loads(format_error(error.message))
    else:
        assert request.inputs.keys() == SCHOOL.signatures[name].inputs.keys()


@given(st.binary())
def test_whatever_a_body_is_it_is_refused_with_a_message(body: bytes) -> None:
    assert refusal(body)


def test_long_values_are_cut_in_messages() -> None:
    assert len(json_text({"b64": "A" * 100_000})) == MAX_TEXT_CHARS + 1
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    assert len(json_text(deep)) == MAX_TEXT_CHARS + 1


SCHOOL_OUTPUT = SIGNATURES["serving_default"]


def test_one_output_is_written_as_itself() -> None:
    outputs = {"probabilities": np.float32([[0.1, 0.9], [1, 0]])}
    assert (
        format_predict(outputs, row_format=True, signature=SCHOOL_OUTPUT)
        == b'{"predictions": [[0.1, 0.9], [1.0, 0.0]]}'
    )
    assert (
        format_predict(outputs, row_format=False, signature=SCHOOL_OUTPUT) == b'{"outputs": [[0.1, 0.9], [1.0, 0.0]]}'
    )


def test_several_outputs_are_written_as_objects_in_the_order_of_the_signature() -> None:
    outputs = {"probabilities": np.float32([[0.5, 0.5]]), "label_bytes": np.array([b"\xffab"], object)}
    signature = SIGNATURES["explain"]
    assert (
        format_predict(outputs, row_format=True, signature=signature)
        == b'{"predictions": [{"label_bytes": {"b64": "/2Fi"}, "probabilities": [0.5, 0.5]}]}'
    )
    assert (
        format_predict(outputs, row_format=False, signature=signature)
        == b'{"outputs": {"label_bytes": [{"b64": "/2Fi"}], "probabilities": [[0.5, 0.5]]}}'
    )


def one(values: np.ndarray, *, name: str = "y") -> str:
    signature = Signature({}, {name: spec(values.dtype)}, "")
    return format_predict({name: values}, row_format=False, signature=signature).decode()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.array(["é\n".encode(), b"\xff"], object), '["é\\n", "\ufffd"]'),
        (np.array([True, False]), "[true, false]"),
        (np.int64([-(2**63)]), "[-9223372036854775808]"),
        (np.uint8([[1, 2], [3, 4]]), "[[1, 2], [3, 4]]"),
        (np.float32(7), "7.0"),
        (np.float32([np.nan, np.inf, -np.inf, 1e-5, 1e10, 0.1]), "[NaN, Infinity, -Infinity, 1e-05, 1e+10, 0.1]"),
        (np.float64([0.1, 1 / 3]), "[0.1, 0.3333333333333333]"),
        (np.zeros((2, 0, 3), np.float32), "[[], []]"),
        (np.zeros((0, 2), np.float32), "[]"),
    ],
)
def test_values_of_all_types_are_written(values: np.ndarray, text: str) -> None:
    assert one(values) == f'{{"outputs": {text}}}'


@given(st.lists(st.floats(width=32), min_size=1))
def test_a_float_is_written_as_the_shortest_text_that_gives_it_back(numbers: list[float]) -> None:
    tensor = np.float32(numbers)
    text = one(tensor)
    np.testing.assert_array_equal(np.float32(json.loads(text)["outputs"]), tensor)
    for token, number in zip(text.removeprefix('{"outputs": [').removesuffix("]}").split(", "), tensor, strict=True):
        if np.isfinite(number):
            assert "." in token or "e" in token
            digits = sum(character.isdigit() for character in token.split("e")[0].strip("-0."))
            assert digits <= 1 or np.float32(f"{number:.{digits - 2}e}") != number


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        ({"label_bytes": np.array(b"a", object)}, "Tensor name: label_bytes has no shape information "),
        ({"probabilities": np.zeros((0, 2), np.float32)}, "Tensor name: probabilities has invalid batch size: 0"),
        (
            {"label_bytes": np.array([b"a"] * 2, object), "probabilities": np.zeros((3, 2), np.float32)},
            "Tensor name: probabilities has inconsistent batch size: 3 expecting: 2",
        ),
        (
            {"probabilities": np.zeros((1, 2), np.complex64)},
            "Failed to write JSON value for tensor type: complex64",
        ),
    ],
)
def test_outputs_that_are_no_rows_are_refused(outputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ServingError) as error:
        format_predict(outputs, row_format=True, signature=SIGNATURES["explain"])
    assert (error.value.status, error.value.message) == (400, message)
