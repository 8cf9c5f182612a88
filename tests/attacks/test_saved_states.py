"""Saved states are untrusted input: a malicious one is one error, and model and optimizer do not change."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_files import (
    changing_rename,
    dangling_link,
    device,
    folder_,
    link_to_a_device,
    link_to_itself,
    pipe,
    sparse_file,
)
from registry import way
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aprnb.errors import AprnbError, OutputError, OutputExists
from aprnb.formats.source import file_sha256
from aprnb.tuning.planning.identity import Identity
from aprnb.tuning.planning.saving import SaveRule
from aprnb.tuning.training.optimizer import build_optimizer, decay_groups
from aprnb.tuning.training.saving.state import RunState, restore, trainable_tensors
from aprnb.tuning.training.saving.state_files import load_state, save_state
from aprnb_tests.tiny import CPU, TinyRun, identity_of, saver, schedule_of, tiny_examples, tiny_run

pytestmark = pytest.mark.usefixtures("nothing_waits")

STEPS = 2
MOST_BYTES = 64 << 20
COW = "notebooks/ask-the-cow.jsonl"
ONE_STEP: dict[str, Any] = {"max_steps": 1, "rank": 1, "method": "lora"}


# A saved state, and a model and optimizer to put it into: tests that find it rejected leave both as they were.


@dataclasses.dataclass
class Target:
    """The model and optimizer into which a state is restored."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    identity: Identity

    def snapshot(self) -> list[Any]:
        weights = [parameter.detach().clone() for parameter in self.model.parameters()]
        groups = [{**group, "params": len(group["params"])} for group in self.optimizer.param_groups]
        return [weights, groups, len(self.optimizer.state), torch.get_rng_state()]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@dataclasses.dataclass
class Planted:
    """A copy of the saved state to damage."""

    folder: Path

    @property
    def step(self) -> Path:
        return self.folder / f"step-{STEPS:06d}"

    @property
    def json(self) -> Path:
        return self.step / "state.json"

    @property
    def safetensors(self) -> Path:
        return self.step / "tensors.safetensors"

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.json.read_text())
        return found

    def write(self, document: dict[str, Any]) -> None:
        self.json.write_text(json.dumps(document))

    def change(self, change: Callable[[dict[str, Tensor]], object]) -> None:
        """Changes the tensors, and the document's hash of their file with them: an attacker can compute it too."""
        tensors = load_file(self.safetensors)
        change(tensors)
        save_file(tensors, self.safetensors)
        self.write(self.document() | {"tensors_sha256": file_sha256(self.safetensors)})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "states"
    list(a_run().events(save=saver(folder), saving=SaveRule(STEPS, None)))
    return folder


@pytest.fixture(scope="module")
def target() -> Target:
    run = a_run()
    return Target(run.model, build_optimizer(run.model, run.recipe, CPU), identity_of(run.recipe))


@pytest.fixture
def planted(saved: Path, tmp_path: Path) -> Planted:
    return Planted(shutil.copytree(saved, tmp_path / "states"))


def a_run() -> TinyRun:
    return tiny_run(schedule_of(tiny_examples(), *STEPS * [((0, 1),)]))


def take(folder: Path, target: Target, steps: int = STEPS) -> None:
    identity = dataclasses.replace(target.identity, total_steps=steps)
    restore(load_state(folder, identity, MOST_BYTES), target.model, target.optimizer, CPU)


def rejected(folder: Path, target: Target, steps: int = STEPS) -> str:
    """The text of the AprnbError; neither model nor optimizer changed."""
    before = target.snapshot()
    with pytest.raises(AprnbError) as caught:
        take(folder, target, steps)
    assert equal(target.snapshot(), before)
    assert len(str(caught.value)) < 10_000
    return str(caught.value)


def test_the_state_as_it_was_saved_is_taken(planted: Planted) -> None:
    run = a_run()
    fresh = Target(run.model, build_optimizer(run.model, run.recipe, CPU), identity_of(run.recipe))
    take(planted.folder, fresh)
    found = load_file(planted.safetensors)
    assert all(torch.equal(tensor, found[f"model/{name}"]) for name, tensor in trainable_tensors(run.model).items())


# state.json: fields

ANY: list[Any] = [None, True, -1, 1.5, "text", "", [], {}, [1], {"a": 1}]
NO_NUMBER = [None, True, "text", [], {}, 10**40, -(10**40)]
FIELDS: dict[tuple[str | int, ...], list[Any]] = {
    ("step",): [*ANY, 0, STEPS - 1, STEPS + 1, 10**12, float(STEPS), str(STEPS)],
    ("identity",): ANY,
    ("best",): [value for value in ANY if value is not None],
    ("elapsed_s",): [*NO_NUMBER, -1, -0.5],
    ("optimizer",): ANY,
    ("identity", "recipe"): ANY,
    ("identity", "data"): ANY,
    ("identity", "base"): ANY,
    ("identity", "recipe", "rank"): ANY,
    ("identity", "recipe", "seed"): ANY,
    ("identity", "recipe", "method"): ANY,
    ("best", 0): [*NO_NUMBER, -1, 1.5, STEPS + 1],
    ("best", 1): [*NO_NUMBER, "<script>", "$\\frac{1}{"],
    ("tensors_sha256",): [*ANY, "0" * 64, "0" * 63, "A" * 64, "\x1b[2J" + "0" * 60],
}
"""Where in state.json → values that are not possible there."""
WRONG = [(where, value) for where, values in FIELDS.items() for value in values]


def put(document: Any, where: tuple[str | int, ...], value: Any) -> None:
    for key in where[:-1]:
        document = document[key]
    document[where[-1]] = value


@way("a saved state with other types or keys than its own")
@pytest.mark.parametrize(("where", "value"), WRONG, ids=lambda part: ascii(part)[:40])
def test_a_field_of_another_type_or_value_is_rejected(
    planted: Planted, target: Target, where: tuple[str | int, ...], value: Any
) -> None:
    document = planted.document()
    put(document, where, value)
    planted.write(document)
    rejected(planted.folder, target)


OBJECTS: list[tuple[str | int, ...]] = [(), ("identity",), ("identity", "recipe")]


@pytest.mark.parametrize("where", OBJECTS, ids=str)
@pytest.mark.parametrize("value", [None, 1, "text"])
def test_a_key_too_many_is_rejected(planted: Planted, target: Target, where: tuple[str | int, ...], value: Any) -> None:
    document = planted.document()
    put(document, (*where, "planted"), value)
    planted.write(document)
    assert "planted" in rejected(planted.folder, target) or where == ("identity",)


@pytest.mark.parametrize("where", OBJECTS, ids=str)
def test_a_key_too_few_is_rejected(planted: Planted, target: Target, where: tuple[str | int, ...]) -> None:
    found = planted.document()
    for key in where:
        found = found[key]
    for key in list(found):
        document = planted.document()
        inner = document
        for step in where:
            inner = inner[step]
        del inner[key]
        planted.write(document)
        rejected(planted.folder, target)


# state.json: text


def with_text(old: str, new: str) -> Callable[[str], bytes]:
    def change(text: str) -> bytes:
        assert old in text
        return text.replace(old, new, 1).encode()

    return change


TEXTS: dict[str, Callable[[str], bytes]] = {
    "empty": lambda text: b"",
    "cut off": lambda text: text[: len(text) // 2].encode(),
    "a list": lambda text: f"[{text}]".encode(),
    "null": lambda text: b"null",
    "not UTF-8": lambda text: text.replace('"rows"', '"\udcff"').encode("utf-8", "surrogateescape"),
    "zeros": lambda text: bytes(1 << 20),
    "nested deeply": lambda text: b"[" * 200_000,
    "objects nested deeply": lambda text: b'{"a":' * 200_000,
    "NaN": with_text('"elapsed_s": ', '"elapsed_s": NaN, "x": '),
    "Infinity": with_text('"elapsed_s": ', '"elapsed_s": Infinity, "x": '),
    "a number beyond every float": with_text('"elapsed_s": ', '"elapsed_s": 1e999, "x": '),
    "a number of 10,000 digits": with_text('"step": 2', f'"step": {"9" * 10_000}'),
    "a step of 4,000 digits": with_text('"step": 2', f'"step": {"9" * 4_000}'),
    "a key with two values": with_text('"step": 2', '"step": 2, "step": 1'),
    "a field's key with two values": with_text('"data": "rows"', '"data": "other", "data": "rows"'),
    "half of a surrogate pair": with_text('"rows"', '"\\ud800"'),
    "half of a surrogate pair in a key": with_text('"step": 2', '"step": 2, "\\udfff": 1'),
    "a NUL": with_text('"rows"', '"rows\\u0000"'),
    "escape sequences": with_text('"rows"', '"\\u001b[2Jrows"'),
}


@way("a saved state that is not JSON, or has NaN, huge numbers or repeated keys")
@pytest.mark.parametrize("name", TEXTS)
def test_a_document_of_another_text_is_rejected(planted: Planted, target: Target, name: str) -> None:
    planted.json.write_bytes(TEXTS[name](planted.json.read_text()))
    assert "\x1b" not in rejected(planted.folder, target)


# Files that are none


def link_to_the_same_file(path: Path) -> None:
    kept = path.parent.parent.parent / f"kept-{path.name}"
    shutil.copy(path.parent.parent.parent / f"former-{path.name}", kept)
    path.symlink_to(kept)


def nothing(path: Path) -> None:
    pass


@way("pipes, devices, links and sparse files in a saved state")
@pytest.mark.parametrize("file", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize(
    "make",
    [
        pipe, device, folder_, link_to_itself, link_to_a_device, dangling_link, link_to_the_same_file, sparse_file,
        nothing,
    ],
)  # fmt: skip
def test_only_regular_files_of_a_sensible_size_are_read(
    planted: Planted, target: Target, make: Callable[[Path], None], file: str
) -> None:
    path = planted.step / file
    path.rename(planted.folder.parent / f"former-{file}")
    make(path)
    assert file in rejected(planted.folder, target)


# tensors.safetensors

Tensors = dict[str, Tensor]


def first(tensors: Tensors, part: str) -> str:
    """The name of the first tensor whose name has this part."""
    return next(name for name in sorted(tensors) if part in name)


def turned(part: str, turn: Callable[[Tensor], Tensor]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        name = first(tensors, part)
        tensors[name] = turn(tensors[name]).contiguous()

    return change


def renamed(part: str, name: Callable[[str], str]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        old = first(tensors, part)
        tensors[name(old)] = tensors.pop(old)

    return change


def added(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: torch.ones(2)})


def with_element(value: float) -> Callable[[Tensor], Tensor]:
    def turn(tensor: Tensor) -> Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return turn


PARTS = ("model/", "/exp_avg", "/exp_avg_sq", "/step", "random/")
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "[1, 1], which broadcasts": lambda tensor: tensor.flatten()[:1].reshape(1, 1),
    "[1]": lambda tensor: tensor.flatten()[:1],
    "flat": lambda tensor: tensor.flatten().repeat(2),
    "a dimension more": lambda tensor: tensor[None],
    "no elements": lambda tensor: tensor.flatten()[:0],
}
DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool)
STEP_VALUES = (-2.0, -1.0, 0.0, 1.0, 3.0, 1.5, 1e30)
TENSORS: dict[str, Callable[[Tensors], object]] = {
    **{f"no {part}": (lambda tensors, part=part: tensors.pop(first(tensors, part))) for part in PARTS},
    **{f"{name} in place of {part}": turned(part, turn) for part in PARTS for name, turn in SHAPES.items()},
    **{f"{part} as {dtype}": turned(part, lambda t, d=dtype: t.to(d)) for part in PARTS for dtype in DTYPES},
    **{
        f"{value} in {part}": turned(part, with_element(value))
        for part in PARTS[:-1]
        for value in (float("nan"), float("inf"), float("-inf"))
    },
    **{f"a step count of {value}": turned("/step", lambda t, v=value: t * 0 + v) for value in STEP_VALUES},
    "a negative second moment": turned("/exp_avg_sq", with_element(-1e-9)),
    "a transposed parameter": turned("model/", lambda tensor: tensor.T),
    "a parameter's other name": renamed("model/", lambda name: f"{name}x"),
    "a moment's other name": renamed("/exp_avg", lambda name: f"{name}x"),
    "a name without its part": renamed("model/", lambda name: name.removeprefix("model/")),
    "a name of another part": renamed("model/", lambda name: name.replace("model/", "optimizer/", 1)),
    "a name in capitals": renamed("model/", lambda name: name.replace("model/", "Model/", 1)),
    "a name with a path": renamed("model/", lambda name: f"model/../{name}"),
    "a parameter too many": added("model/planted"),
    "a moment too many": added("optimizer/state/0/planted"),
    "a tensor of the optimizer that nothing names": added("optimizer/planted"),
    "the optimizer itself as a tensor": added("optimizer"),
    "a generator too many": added("random/cuda"),
    "a tensor without a name": added(""),
    "random numbers of three bytes": turned("random/", lambda tensor: tensor[:3]),
    "random numbers that are zeros": turned("random/", torch.zeros_like),
    "random numbers that are all ones": turned("random/", lambda tensor: torch.full_like(tensor, 255)),
    "no tensors": lambda tensors: tensors.clear(),
}  # fmt: skip


@way("a saved state whose tensors are missing, of other shapes or types, or not finite")
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit_are_rejected_and_nothing_changes(planted: Planted, target: Target, name: str) -> None:
    planted.change(TENSORS[name])
    rejected(planted.folder, target)


@pytest.mark.parametrize("size", [0, 7, 8, 100])
def test_a_tensor_file_that_is_cut_off_is_rejected(planted: Planted, target: Target, size: int) -> None:
    os.truncate(planted.safetensors, size)
    rejected(planted.folder, target)


def test_a_tensor_file_that_shrinks_after_it_was_read_changes_nothing(planted: Planted, target: Target) -> None:
    state = load_state(planted.folder, target.identity, MOST_BYTES)
    before = {name: tensor.sum() for name, tensor in state.tensors.items()}
    os.truncate(planted.safetensors, 10)
    assert {name: tensor.sum() for name, tensor in state.tensors.items()} == before


# The optimizer's tree


def pairs(document: Any, *keys: Any) -> list[Any]:
    """The pairs of the node that the keys lead to, of the optimizer's."""
    node = document["optimizer"]
    for key in keys:
        node = dict(node["pairs"])[key] if "pairs" in node else node["items"][key]
    found: list[Any] = node["pairs"]
    return found


def setting(name: str, value: Any) -> Callable[[Any], None]:
    """Puts a node into the first parameter group in place of the one called `name`."""

    def change(document: Any) -> None:
        inside = pairs(document, "param_groups", 0)
        inside[:] = [*(pair for pair in inside if pair[0] != name), [name, value]]

    return change


def without_setting(name: str) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        inside = pairs(document, "param_groups", 0)
        inside[:] = [pair for pair in inside if pair[0] != name]

    return change


def moment(name: str, node: Any) -> Callable[[Any], None]:
    """Puts a node into the first parameter's state in place of the one called `name`."""

    def change(document: Any) -> None:
        inside = pairs(document, "state", 0)
        inside[:] = [*(pair for pair in inside if pair[0] != name), [name, node]]

    return change


def keyed(old: Any, new: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        inside = pairs(document, "state")
        inside[:] = [[new if key == old else key, node] for key, node in inside]

    return change


def whole(node: Any) -> Callable[[Any], None]:
    return lambda document: document.update(optimizer=node)


def nested(depth: int) -> Any:
    node: Any = 1
    for _ in range(depth):
        node = {"items": [node]}
    return node


FIRST = "optimizer/state/0/exp_avg"
ELSEWHERE = "optimizer/state/1/exp_avg"
TREES: dict[str, Callable[[Any], object]] = {
    "two entries that share a tensor": moment("exp_avg_sq", {"__tensor__": FIRST}),
    "a parameter's state that is another's": moment("exp_avg", {"__tensor__": ELSEWHERE}),
    "a model's tensor as a moment": moment("exp_avg", {"__tensor__": "model/x"}),
    "a tensor that is not there": moment("exp_avg", {"__tensor__": "optimizer/state/0/nothing"}),
    "a tensor's name that is a number": moment("exp_avg", {"__tensor__": 0}),
    "a number as a moment": moment("exp_avg", 0.5),
    "text as a moment": moment("exp_avg", "text"),
    "nothing as a moment": moment("exp_avg", None),
    "a number as the step": moment("step", STEPS),
    "true as the step": moment("step", True),
    "a moment too many": moment("max_exp_avg_sq", 1),
    "a moment twice": lambda document: pairs(document, "state", 0).append(["exp_avg", {"__tensor__": FIRST}]),
    "no moment": lambda document: pairs(document, "state", 0).pop(),
    "no state of a parameter": lambda document: pairs(document, "state").pop(),
    "no state at all": lambda document: pairs(document, "state").clear(),
    "a state twice": lambda document: pairs(document, "state").append([0, {"pairs": []}]),
    "a state too many": lambda document: pairs(document, "state").append([999, {"pairs": []}]),
    "a negative parameter": keyed(0, -1),
    "a parameter's number as text": keyed(0, "0"),
    "a parameter's number of 4,000 digits": keyed(0, 10**3_999),
    "a parameter's number that is true": keyed(1, True),
    "a parameter's number that is a fraction": keyed(0, 0.5),
    "a state that is a list": lambda document: pairs(document, "state").append([999, {"items": []}]),
    "other betas": setting("betas", {"items": [0.5, 0.999]}),
    "betas of three": setting("betas", {"items": [0.9, 0.999, 0.999]}),
    "betas as a tensor": setting("betas", {"__tensor__": "optimizer/param_groups/0/betas"}),
    "an eps as a tensor": setting("eps", {"__tensor__": "optimizer/param_groups/0/eps"}),
    "another eps": setting("eps", 1.0),
    "another decay": setting("weight_decay", 0.5),
    "a decay that is text": setting("weight_decay", "0.0"),
    "amsgrad": setting("amsgrad", True),
    "amsgrad as a number": setting("amsgrad", 0),
    "fused as a number": setting("fused", 1),
    "maximize": setting("maximize", True),
    "a learning rate that is text": setting("lr", "0.1"),
    "a learning rate that is a list": setting("lr", {"items": [0.1]}),
    "no learning rate": without_setting("lr"),
    "no betas": without_setting("betas"),
    "a setting too many": setting("planted", None),
    "fewer parameters": setting("params", {"items": [0]}),
    "a parameter twice": setting("params", {"items": [0, 0]}),
    "parameters that are text": setting("params", "0"),
    "no groups": whole({"pairs": [["state", {"pairs": []}], ["param_groups", {"items": []}]]}),
    "groups that are numbers": whole({"pairs": [["state", {"pairs": []}], ["param_groups", {"items": [1, 2]}]]}),
    "groups that are pairs": whole({"pairs": [["state", {"pairs": []}], ["param_groups", {"pairs": []}]]}),
    "a state alone": whole({"pairs": [["state", {"pairs": []}]]}),
    "a part too many": lambda document: pairs(document).append(["planted", 1]),
    "a part that is a number": whole({"pairs": [["state", 1], ["param_groups", 1]]}),
    "an empty list": whole({"items": []}),
    "an empty object": whole({}),
    "a node of another kind": whole({"pickle": "gASV"}),
    "a node of two kinds": whole({"pairs": [], "items": []}),
    "pairs that are not a list": whole({"pairs": {"state": 1}}),
    "a pair of three": whole({"pairs": [["state", 1, 2]]}),
    "a pair without a key": whole({"pairs": [[None, 1]]}),
    "a pair whose key is a list": whole({"pairs": [[["state"], 1]]}),
    "nodes in nodes in nodes": whole(nested(300)),
    "a key of a million characters": whole({"pairs": [["k" * 1_000_000, {"items": list(range(100_000))}]]}),
}


@way("an optimizer state of another optimizer or of other parameters")
@pytest.mark.parametrize("name", TREES)
def test_an_optimizers_tree_that_does_not_fit_is_rejected(planted: Planted, target: Target, name: str) -> None:
    document = planted.document()
    TREES[name](document)
    planted.write(document)
    if name.endswith("as a tensor"):
        node = {"betas": torch.ones(2), "eps": torch.tensor(1e-8)}
        planted.change(lambda tensors: tensors.update({f"optimizer/param_groups/0/{k}": v for k, v in node.items()}))
    rejected(planted.folder, target)


OTHERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda groups: torch.optim.Adam(groups, fused=True),
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "SGD": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "Adagrad": torch.optim.Adagrad,
    "AdamW with amsgrad": lambda groups: torch.optim.AdamW(groups, amsgrad=True, fused=True),
    "AdamW with other betas": lambda groups: torch.optim.AdamW(groups, betas=(0.8, 0.9), fused=True),
    "AdamW in 8 bits": lambda groups: eight_bits(groups),
}


def eight_bits(groups: Any) -> torch.optim.Optimizer:
    from bitsandbytes.optim.adamw import AdamW8bit

    found: torch.optim.Optimizer = AdamW8bit(groups)
    return found


def stepped(optimizer: torch.optim.Optimizer, steps: int = STEPS) -> torch.optim.Optimizer:
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", OTHERS)
def test_the_state_of_another_optimizer_is_rejected(saved: Path, target: Target, tmp_path: Path, name: str) -> None:
    other = stepped(OTHERS[name](decay_groups(a_run().model.named_parameters(), 0.0)))
    state = load_state(saved, target.identity)
    save_state(tmp_path, dataclasses.replace(state, optimizer=other.state_dict()))
    assert "optimizer" in rejected(tmp_path, target)


def test_a_state_before_the_first_step_has_no_optimizer_state(saved: Path, target: Target, tmp_path: Path) -> None:
    state = dataclasses.replace(load_state(saved, target.identity), step=0, best=None)
    save_state(tmp_path / "with", state)
    assert "other parameters" in rejected(tmp_path / "with", target)
    run = a_run()
    fresh = Target(run.model, build_optimizer(run.model, run.recipe, CPU), target.identity)
    save_state(tmp_path / "without", dataclasses.replace(state, optimizer=fresh.optimizer.state_dict()))
    take(tmp_path / "without", fresh)


# bitsandbytes' optimizer runs on the CPU too, though aprnb offers it on CUDA alone.


@pytest.fixture
def eight(tmp_path: Path) -> tuple[Planted, Target]:
    """A state whose matrix of 4,096 elements is kept in 8 bits and whose vector is not, and a target for it."""

    def layer() -> nn.Linear:
        torch.manual_seed(0)
        return nn.Linear(64, 64)

    identity, trained, fresh = Identity({}, "rows", "base", STEPS), layer(), layer()
    optimizer = stepped(eight_bits(decay_groups(trained.named_parameters(), 0.0)))
    tensors, random = trainable_tensors(trained), {"cpu": torch.get_rng_state()}
    save_state(tmp_path, RunState(STEPS, identity, None, 1.0, tensors, optimizer.state_dict(), random))
    return Planted(tmp_path), Target(fresh, eight_bits(decay_groups(fresh.named_parameters(), 0.0)), identity)


def test_an_8_bit_optimizer_resumes_in_the_same_state(eight: tuple[Planted, Target]) -> None:
    planted, fresh = eight
    take(planted.folder, fresh)
    stepped(fresh.optimizer, 1)
    torch.manual_seed(0)
    whole = nn.Linear(64, 64)
    stepped(eight_bits(decay_groups(whole.named_parameters(), 0.0)), STEPS + 1)
    assert all(map(torch.equal, fresh.model.parameters(), whole.parameters()))


EIGHT: dict[str, Callable[[Tensors], object]] = {
    **{f"NaN in {name}": turned(f"/{name}", with_element(float("nan"))) for name in ("qmap1", "absmax2")},
    **{f"infinity in {name}": turned(f"/{name}", with_element(float("inf"))) for name in ("qmap2", "absmax1")},
    **{f"another value in {name}": turned(f"/{name}", with_element(0.5)) for name in ("qmap1", "qmap2")},
    **{f"a negative scale in {name}": turned(f"/{name}", with_element(-1.0)) for name in ("absmax1", "absmax2")},
    **{
        f"{name} cut off": turned(f"/{name}", lambda tensor: tensor[:1])
        for name in ("qmap1", "qmap2", "absmax1", "absmax2", "state1", "state2")
    },
    **{f"{name} as floats": turned(f"/{name}", Tensor.float) for name in ("state1", "state2")},
    **{f"no {name}": (lambda tensors, name=name: tensors.pop(first(tensors, f"/{name}"))) for name in ("qmap1",)},
    "a negative second moment": turned("/1/__bnb_optimizer_quant_state__/state2", with_element(-1.0)),
    "a moment of the vector in 8 bits": turned("/1/__bnb_optimizer_quant_state__/state2", lambda t: t.to(torch.uint8)),
}  # fmt: skip


@pytest.mark.parametrize("name", EIGHT)
def test_an_8_bit_state_that_does_not_fit_is_rejected(eight: tuple[Planted, Target], name: str) -> None:
    planted, fresh = eight
    planted.change(EIGHT[name])
    rejected(planted.folder, fresh)


@pytest.mark.parametrize("value", [-1, 0, STEPS + 1, 1.5, True, None, "2"])
def test_an_8_bit_state_of_another_step_is_rejected(eight: tuple[Planted, Target], value: Any) -> None:
    planted, fresh = eight
    document = planted.document()
    moment("step", value)(document)
    planted.write(document)
    rejected(planted.folder, fresh)


@pytest.mark.parametrize("step", [torch.tensor(float(STEPS)), torch.full((2,), float(STEPS))], ids=["one", "two"])
def test_an_8_bit_state_whose_step_is_a_tensor_is_rejected(eight: tuple[Planted, Target], step: Tensor) -> None:
    planted, fresh = eight
    document = planted.document()
    moment("step", {"__tensor__": "optimizer/state/0/step"})(document)
    planted.write(document)
    planted.change(lambda tensors: tensors.update({"optimizer/state/0/step": step}))
    rejected(planted.folder, fresh)


@pytest.mark.parametrize("change", ["flat", "number"])
def test_an_8_bit_state_of_another_form_is_rejected(eight: tuple[Planted, Target], change: str) -> None:
    planted, fresh = eight
    document = planted.document()
    moment("__bnb_optimizer_quant_state__", {"pairs": []} if change == "flat" else 1)(document)
    planted.write(document)
    rejected(planted.folder, fresh)


# Folders of steps

NAMES = [
    "step-٠٠٠٠٠٩", "step-０００００９", "step-+00009", "step--00009", "step-" + "9" * 240, "step-9", "step-0000009",
    "step-", "step", "step-00000a", "step-1e9999", "step-0x0009", "STEP-000009", "step-000009 ", " step-000009",
    "step-000009\n", "step-000009.old", "notes",
]  # fmt: skip


@way("folders of a saved state with other names, or thousands of them")
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_a_folder_of_another_name_next_to_a_state_is_rejected(planted: Planted, target: Target, name: str) -> None:
    shutil.copytree(planted.step, planted.folder / name)
    assert "is not a saved state" in rejected(planted.folder, target, 10**9)


@pytest.mark.parametrize("make", [pipe, link_to_itself, link_to_a_device, dangling_link, sparse_file])
def test_a_step_that_is_not_a_folder_is_rejected(
    planted: Planted, target: Target, make: Callable[[Path], None]
) -> None:
    make(planted.folder / "step-000009")
    assert "is not a saved state" in rejected(planted.folder, target, 10)


def test_a_step_that_is_a_link_to_a_state_is_rejected(planted: Planted, target: Target) -> None:
    planted.step.rename(planted.folder.parent / "elsewhere")
    planted.step.symlink_to(planted.folder.parent / "elsewhere")
    assert "is not a saved state" in rejected(planted.folder, target)


def test_a_newest_step_without_files_is_named_and_the_one_before_is_used(planted: Planted, target: Target) -> None:
    (planted.folder / "step-000009").mkdir()
    state = load_state(planted.folder, target.identity, MOST_BYTES)
    [named] = state.passed_over
    assert state.step == STEPS
    assert "step-000009" in named
    assert "state.json" in named


@way("a saved state with a flipped bit")
@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_flipped_bit_in_the_tensors_is_rejected(planted: Planted, target: Target, at: float) -> None:
    data = bytearray(planted.safetensors.read_bytes())
    data[int(at * len(data))] ^= 1
    planted.safetensors.write_bytes(data)
    assert "tensors.safetensors" in rejected(planted.folder, target)


@pytest.mark.parametrize("number", [1, 3, 123_456_789])
def test_a_state_under_the_name_of_another_step_is_rejected(planted: Planted, target: Target, number: int) -> None:
    planted.step.rename(planted.folder / f"step-{number:06d}")
    assert f"is of step {STEPS}" in rejected(planted.folder, target, 10**9)


def test_a_state_after_the_runs_last_step_is_rejected(planted: Planted, target: Target) -> None:
    message = rejected(planted.folder, target, STEPS - 1)
    assert f"the saved run has made {STEPS} steps, this one has {STEPS - 1}" in message
    assert "\n→ give the --epochs or --max-steps" in message


@pytest.mark.parametrize("name", ["step-{:06d}", ".aprnb-{}.part", "notes-{}"])
def test_thousands_of_folders_are_rejected(planted: Planted, target: Target, name: str) -> None:
    for number in range(10, 3_010):
        (planted.folder / name.format(number)).mkdir()
    rejected(planted.folder, target, 10**6)


@pytest.mark.parametrize("make", [nothing, folder_, pipe, sparse_file, link_to_itself, dangling_link])
def test_a_state_folder_without_a_state_is_named(tmp_path: Path, target: Target, make: Callable[[Path], None]) -> None:
    make(tmp_path / "states")
    assert "no saved state in" in rejected(tmp_path / "states", target)


def test_a_state_folder_that_is_a_link_is_not_read(planted: Planted, target: Target, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(planted.folder)
    assert "no saved state in" in rejected(tmp_path / "link", target)


@pytest.mark.parametrize("make", [pipe, sparse_file, link_to_itself, dangling_link])
@pytest.mark.parametrize("name", ["states", "states/step-000002"])
def test_nothing_is_saved_over_what_is_not_a_folder(
    saved: Path, target: Target, tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    before = os.lstat(tmp_path / name)
    with pytest.raises((OutputExists, OutputError)):
        save_state(tmp_path / "states", load_state(saved, target.identity))
    assert os.lstat(tmp_path / name) == before


def test_saving_through_a_link_removes_nothing_of_another_run(saved: Path, target: Target, tmp_path: Path) -> None:
    (tmp_path / "other" / "step-000001").mkdir(parents=True)
    (tmp_path / "other" / "step-000001" / "state.json").write_text("precious")
    (tmp_path / "states").symlink_to(tmp_path / "other")
    with pytest.raises(OutputExists, match="is a link"):
        save_state(tmp_path / "states", load_state(saved, target.identity))
    assert (tmp_path / "other" / "step-000001" / "state.json").read_text() == "precious"


def test_an_older_state_with_other_files_stays_when_the_next_is_saved(planted: Planted, target: Target) -> None:
    state = load_state(planted.folder, target.identity)
    (planted.step / "notes.txt").write_text("mine")
    save_state(planted.folder, dataclasses.replace(state, step=STEPS + 1))
    assert (planted.step / "notes.txt").read_text() == "mine"
    assert planted.json.exists()


@way("a rename that fails half way")
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_the_former_state_comes_back_when_the_next_cannot_take_its_place(
    planted: Planted, target: Target, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def change(source: Path, to: Path) -> None:
        if to == planted.step and source.name == "new":
            raise error

    state, before = load_state(planted.folder, target.identity), planted.json.read_text()
    changing_rename(monkeypatch, change)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        save_state(planted.folder, state)
    assert planted.json.read_text() == before
    assert [path.name for path in planted.folder.iterdir()] == [planted.step.name]


@way("a folder planted under a temporary name")
def test_a_folder_planted_next_to_a_state_is_never_used(planted: Planted, target: Target, tmp_path: Path) -> None:
    state, folder = load_state(planted.folder, target.identity), tmp_path / "fresh"

    class Planting(dict):  # type: ignore[type-arg]  # holds anything
        """Plants folders while the state's tensors are written."""

        def items(self) -> Any:
            for work in folder.glob(".aprnb-*.part"):
                shutil.copytree(planted.step, work.with_suffix(".former"))
            return super().items()

    damaged = {**state.optimizer, "state": Planting({0: object()})}  # not JSON: the state cannot be written
    with pytest.raises(TypeError):
        save_state(folder, dataclasses.replace(state, optimizer=damaged))
    assert not (folder / planted.step.name).exists()
