"""Compares an adapter with its base before anything is computed, and gives what it changes, weight by weight.

What PEFT 0.21 would ignore or guess is an error here: a matrix without its partner, a module that was to be saved and
is not in the file, another shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aprnb.adapters.changes import Added, Both, Change, LowRank, Normalised, Replaced, ReplacedRows
from aprnb.adapters.config import MERGE_UNTIED, MERGE_WITH_PEFT
from aprnb.adapters.files import AdapterFiles
from aprnb.adapters.names import RENAME, Key, is_renamed
from aprnb.adapters.pairs import low_rank_changes
from aprnb.architecture import ContractReport, ExpectedTensor, expected_tensors
from aprnb.architecture.experts import router_name
from aprnb.formats.codecs.arrays import Floats

OTHER_BASE = "merge it into the base that it was trained on"
_HEAD = "lm_head.weight"
ReadWeight = Callable[[str], Floats]
"""Takes a weight's name; gives the base's values."""


def changes_of(adapter: AdapterFiles, report: ContractReport, read: ReadWeight) -> dict[str, Change]:
    """Name of the base's weight → what the adapter does to it.

    Raises UsageProblem where the adapter does not fit the model or its own config.
    """
    return _Fit(adapter, report, read).changes()


class _Fit:
    """The state of `changes_of`: the expected tensors by the names that modules have."""

    def __init__(self, adapter: AdapterFiles, report: ContractReport, read: ReadWeight) -> None:
        self._adapter, self._report, self._read = adapter, report, read
        self._expected = expected_tensors(report.architecture)
        self._by_module: dict[str, ExpectedTensor] = {router_name(name): one for name, one in self._expected.items()}
        self._by_module |= self._expected
        self._tied = report.architecture.tie_word_embeddings
        self._embedding = next(iter(self._expected))  # every family's table begins with it

    def changes(self) -> dict[str, Change]:
        found: dict[str, Change] = dict(self._saved())
        self._require_saved(found)
        for name, change in self._rows().items():
            found[name] = Both(found[name], change) if name in found else change
        tensors, config = self._adapter.tensors, self._adapter.config
        pairs = low_rank_changes(self._adapter, self._by_module)
        for name, (module, change) in pairs.items():
            earlier = found.get(name)
            magnitude = tensors.get(Key(module, "magnitude"))
            if (magnitude is not None) != config.is_set("use_dora"):
                raise self._misfit(f"has use_dora {config.is_set('use_dora')} and a magnitude for {name}", "both")
            new: Change = change
            if magnitude is not None:
                new = self._normalised(name, change, magnitude, earlier)
            found[name] = Both(earlier, new) if earlier else new
        found |= self._biases(pairs)
        self._require_untied_embedding(found, pairs)
        if not found:
            raise self._misfit("contains no tensors", "lora_A and lora_B for each weight", None)
        return found

    def _saved(self) -> dict[str, Change]:
        """Tensors that were trained and saved whole: modules to save, embeddings, biases."""
        found: dict[str, Change] = {}
        for key, values in self._adapter.tensors.items():
            if key.part not in ("weight", "bias"):
                continue
            name = f"{key.module}.{key.part}"
            if name == _HEAD and self._tied:
                self._require_equal_head(values)
                continue
            tensor = self._tensor(name, f"changes {name}")
            self._require_allowed(key, tensor)
            if values.shape != tensor.shape:
                raise self._misfit(
                    f"has {name} as {list(values.shape)}", str(list(tensor.shape)), _resized(tensor, len(values))
                )
            found[tensor.name] = Replaced(values.reshape(-1))
        return found

    def _require_allowed(self, key: Key, tensor: ExpectedTensor) -> None:
        """PEFT saves embeddings of its own accord; the config names the others."""
        config = self._adapter.config
        above = key.module.split(".")
        modules = [".".join(above[: n + 1]) for n in range(len(above))]
        listed = any(module.endswith(name) for name in config.saved_modules for module in modules)
        embedding = tensor.rule.role in ("embedding", "head")
        if not (listed or embedding or (key.part == "bias" and config.bias != "none")):
            raise self._misfit(f"contains the tensor {tensor.name}", "only modules that modules_to_save or bias name")
        adapted = any(Key(key.module, part) in self._adapter.tensors for part in ("A", "embedding A"))
        if key.wrapped != adapted:
            raise self._misfit(f"contains the tensor {tensor.name} twice, trained whole and by LoRA", "one of them")

    def _require_equal_head(self, values: Floats) -> None:
        module = self._embedding.removesuffix(".weight")
        embedding = self._adapter.tensors.get(Key(module, "weight"))
        if embedding is None or embedding.shape != values.shape or bool((embedding != values).any()):
            action = MERGE_UNTIED if Key("lm_head", "A") in self._adapter.tensors else MERGE_WITH_PEFT
            raise self._misfit(f"changes {_HEAD}", "a head equal to the embedding, to which this base ties it", action)

    def _require_saved(self, found: Mapping[str, Change]) -> None:
        """Every module that the config says was saved is in the file."""
        for listed in self._adapter.config.saved_modules:
            named = [name for name in self._by_module if _is_part_of(name, listed)]
            missing = next((name for name in named if self._by_module[name].name not in found), None)
            if missing:
                raise self._misfit(f"says modules_to_save {listed} and does not contain {missing}", "its tensors")
        if self._adapter.config.bias == "all":
            missing = next((name for name in self._expected if name.endswith(".bias") and name not in found), None)
            if missing:
                raise self._misfit(f"says bias all and does not contain {missing}", "its tensors")

    def _rows(self) -> dict[str, Change]:
        """Trained rows of embeddings (`trainable_token_indices`)."""
        left = dict(self._adapter.config.tokens)
        found: dict[str, Change] = {}
        for key, values in self._adapter.tensors.items():
            if key.part != "tokens":
                continue
            tensor = self._tensor(f"{key.module}.weight", f"changes {key.module}.weight")
            named = next((name for name in left if not name or key.module.endswith(name)), None)
            rows = left.pop(named) if named is not None else ()
            if values.shape != (len(rows), tensor.shape[-1]) or max(rows, default=0) >= tensor.shape[0]:
                raise self._misfit(
                    f"has {list(values.shape)} trained rows of {tensor.name} for {len(rows)} trainable_token_indices",
                    f"as many, below {tensor.shape[0]:,}",
                )
            found[tensor.name] = ReplacedRows(rows, values)
        if left:
            raise self._misfit("says trainable_token_indices and does not contain their rows", "trained rows")
        return found

    def _normalised(self, name: str, change: LowRank, magnitude: Floats, earlier: Change | None) -> Change:
        tensor = self._expected[name]
        axis = 1 if tensor.rule.role in ("linear", "head", "router", "expert") else 0
        outputs = tensor.shape[1 - axis]
        if magnitude.reshape(-1).shape != (outputs,):
            raise self._misfit(f"has a magnitude of {list(magnitude.shape)} for {name}", f"[{outputs}]")

        def whole() -> Floats:
            base = self._read(name).reshape(-1)
            return earlier(0, base) if earlier else base

        return Normalised(change, magnitude.reshape(-1), axis, whole)

    def _biases(self, pairs: Mapping[str, tuple[str, Change]]) -> dict[str, Change]:
        """Biases of LoRA's own (`lora_bias`) for each of its modules."""
        found: dict[str, Change] = {}
        config, tensors = self._adapter.config, self._adapter.tensors
        for name, (module, _) in pairs.items():
            values = tensors.get(Key(module, "B.bias"))
            bias = self._expected.get(name.removesuffix(".weight") + ".bias")
            if (values is not None) != config.is_set("lora_bias"):
                raise self._misfit(f"has lora_bias {config.is_set('lora_bias')} and a bias of {name}", "both")
            saved = Key(module, "bias", None, True) in tensors
            if config.bias != "none" and bias is not None and not saved:
                raise self._misfit(f"says bias {config.bias} and does not contain that of {module}", "its tensors")
            if values is None:
                continue
            if bias is None or values.shape != bias.shape:
                has = "has no bias" if bias is None else f"has one of {list(bias.shape)}"
                raise self._misfit(
                    f"has lora_bias, and {module} of this base {has}", "a base with that bias", OTHER_BASE
                )
            scaled = Added(values * config.scale_of(module))
            found[bias.name] = Both(Replaced(tensors[Key(module, "bias", None, True)]), scaled) if saved else scaled
        return found

    def _require_untied_embedding(self, found: Mapping[str, Change], pairs: Mapping[str, object]) -> None:
        """A change of the embedding alone would also change a head that is tied to it."""
        if not self._tied or self._embedding not in found:
            return
        if self._embedding in pairs:
            raise self._misfit(
                f"changes {self._embedding} by LoRA", "a base whose head is not tied to it", MERGE_UNTIED
            )
        whole = isinstance(found[self._embedding], Replaced)
        equal = Key("lm_head", "weight") in self._adapter.tensors
        if whole and not equal and not self._adapter.config.is_set("ensure_weight_tying"):
            raise self._misfit(f"changes {self._embedding} alone", "the head as well, which this base ties to it")

    def _tensor(self, name: str, found: str) -> ExpectedTensor:
        tensor = self._by_module.get(name)
        if tensor is None:
            action = RENAME if is_renamed(name, self._by_module) else OTHER_BASE
            raise self._misfit(found, f"weights of {self._report.path.name}", action)
        return tensor

    def _misfit(self, found: str, expected: str, action: str | None = MERGE_WITH_PEFT) -> Exception:
        return self._adapter.misfit(found, expected, action)


def _resized(tensor: ExpectedTensor, rows: int) -> str:
    if tensor.rule.role not in ("embedding", "head"):
        return OTHER_BASE
    return (
        f"give the base as many rows first: `m = AutoModelForCausalLM.from_pretrained(base); "
        f"m.resize_token_embeddings({rows})`, then `PeftModel.from_pretrained(m, adapter).merge_and_unload()"
        ".save_pretrained(folder)`, and convert the folder"
    )


def _is_part_of(name: str, listed: str) -> bool:
    """Whether PEFT's name of a module to save means a module of which the weight `name` is a part."""
    above = name.split(".")[:-1]
    return any(".".join(above[: n + 1]).endswith(listed) for n in range(len(above)))
