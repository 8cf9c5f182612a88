"""Target of the fuzzer: recipe files, in a working directory of their own, with the files that they name."""

from __future__ import annotations

import json
import os
import random
import tomllib
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

from fuzz_case import NAMED_BY_A_PERSON, SECRET, Case, become
from fuzz_documents import changed_toml, damaged
from fuzz_layouts import layouts
from judges import WrongVerdict
from tokenizers import Tokenizer

import aprnb
from aprnb.architecture import resolve
from aprnb.architecture.evidence.configs import read_config
from aprnb.errors import AprnbError
from aprnb.tokenizer.checkpoint_tokenizer import CheckpointTokenizer
from aprnb.tokenizer.choose_template import choose_template
from aprnb.tokenizer.tokenizer_files import TokenizerFiles
from aprnb.tuning.data.rows import read_rows
from aprnb.tuning.planning.model_size import check_model_size
from aprnb.tuning.planning.recipe import OPTIONS, RunOptions, recipe_document
from aprnb.tuning.planning.recipe_file import read_recipe_file
from aprnb.tuning.planning.recipe_reader import read_options
from aprnb_tests.tiny import tiny_recipe

ROW = {"instruction": "Say moo.", "response": "moo"}
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
FILES = {
    "rows.jsonl": json.dumps(ROW).encode(),
    "sub/eval.jsonl": json.dumps(ROW | {"response": "Moo!"}).encode(),
    "config.json": b'{"model_type": "qwen3", "hidden_size": 8}',
    "template.jinja": TEMPLATE.encode(),
}
PLANTED = {
    "rows.jsonl": json.dumps(ROW | {"response": SECRET}).encode(),
    "eval.jsonl": json.dumps(ROW | {"response": SECRET}).encode(),
    "config.json": json.dumps({"model_type": "qwen3", "name": SECRET}).encode(),
    "template.jinja": (TEMPLATE + SECRET).encode(),
}
RECIPES = (
    'method = "lora"\nrank = 8\nalpha = 16.0\ndata = "rows.jsonl"\nval_split = 0.1\nepochs = 2\nseed = 7\n',
    'data = "rows.jsonl"\neval_data = "sub/eval.jsonl"\nmax_steps = 10\nlearning-rate = 1e-4\ndtype = "float32"\n',
    'config = "config.json"\nchat_template = "template.jinja"\ntarget_modules = ["q_proj", "v_proj"]\n'
    '[overrides]\nhidden_size = 64\nrope_theta = "1e6"\n',
    'data = [{instruction = "a", response = "b"}, {messages = [{role = "user", content = "c"}]}]\nplan = true\n'
    'optimizer = "adamw"\nmodel_size = "8B"\nweight_decay = 0.1\nmax_seq_len = 512\nmicro_batch_tokens = 4096\n',
    'method = "full"\nbatch_size = 4\nwarmup_ratio = 0.1\nmax_grad_norm = 0.5\ngradient_checkpointing = "on"\n'
    'output_dtype = "BF16"\ndevice = "cpu"\neval_every = 5\nverbose = false\ntask = "instruct"\n',
)
FORBIDDEN = ("force", "output", "resume")
PATHS = ("data", "eval_data", "config", "chat_template")
KEYS = (*OPTIONS, *OPTIONS, *FORBIDDEN, *PATHS * 4, "model", "set", "Data", "data ", "__class__", "x" * 300)
_OF_KIND: Mapping[str, tuple[str, ...]] = {
    "integer": ("8", "100", '"12"', "16.0", "9007199254740993"),
    "number": ("0.1", "1", "1e-3", "0"),
    "flag": ("true", "false", '"yes"'),
    "modules": ('"q_proj,v_proj"', '["up_proj"]', "{a = 1}", "5"),
    "pairs": ('"hidden_size=8"', '["rope_theta=1e4", "head_dim=4"]', "{rope_theta = inf}", "{head_dim = 1979-05-27}",
              "{rope_scaling = {type = 'yarn'}}", "{layer_types = [1]}", "5"),
    "text": ('"8B"', '"cpu"', '"instruct"'),
}  # fmt: skip
PLAUSIBLE = {
    name: [*(f'"{choice}"' for choice in known.choices), *_OF_KIND.get(known.kind, ())]
    for name, known in OPTIONS.items()
    if name not in PATHS
}
"""Values that an option may well take."""


class Recipes:
    """A few recipes that name files of the working directory; `HOME` is the folder outside."""

    def __init__(self, folder: Path) -> None:
        source = Path(__file__).parents[1] / "data" / "sources" / "llama" / "tokenizer.json"
        self._tokenizer = CheckpointTokenizer(Tokenizer.from_file(str(source)))
        (folder / "m").mkdir()
        for name, data in layouts()[0].files.items():
            (folder / name).write_bytes(data)
        self._checkpoint = aprnb.open(folder / "m")

    planted = PLANTED

    def build(self, rng: random.Random, case: Case) -> None:
        case.write(FILES)
        (case.folder / "link.jsonl").symlink_to(case.outside / "rows.jsonl")
        (case.folder / "inner.jsonl").symlink_to("rows.jsonl")
        (case.folder / "elsewhere").symlink_to(case.outside)
        recipe = rng.choice(RECIPES).encode()

        def value_of(key: str) -> str:
            return rng.choice(PLAUSIBLE.get(key) or [json.dumps(path) for path in _paths(rng, case)])

        data = damaged(rng, recipe, lambda rng, data: changed_toml(rng, data, KEYS, value_of), aware=0.95)
        case.write({"recipe.toml": data})
        if rng.random() < 0.05:
            become(rng, case.folder / "recipe.toml", case.outside, NAMED_BY_A_PERSON)
        if rng.random() < 0.1:
            become(rng, case.folder / rng.choice(list(FILES)), case.outside)

    def examine(self, rng: random.Random, case: Case) -> str:
        home = os.environ.get("HOME")
        os.environ["HOME"] = str(case.outside)
        try:
            with chdir(case.folder):
                return self._examined(case)
        finally:
            if home is not None:
                os.environ["HOME"] = home

    def _examined(self, case: Case) -> str:
        given = read_recipe_file(Path("recipe.toml"))
        hold_options(given, Path("recipe.toml").read_bytes(), case.folder)
        recipe, options = read_options(given, "recipe.toml")
        json.dumps(vars(recipe), allow_nan=False)
        document = recipe_document(tiny_recipe(), options)
        case.hold_secret(json.dumps([vars(recipe), document], default=str), repr(recipe), repr(options))
        self._settle(options, case)
        used = [self._used(name, value, case) for name, value in given.items() if name in PATHS]
        case.hold_files()
        return "accepted" if all(used) else "accepted, a file of it rejected"

    def _settle(self, options: RunOptions, case: Case) -> None:
        """What config, overrides and size of the recipe make of a checkpoint."""
        try:
            check_model_size(options.model_size, 1000, 1000)
        except AprnbError as error:
            case.hold_secret(str(error))
        try:
            found = resolve(self._checkpoint, config=options.config, overrides=options.overrides)
        except AprnbError as error:
            case.hold_secret(str(error))
        else:
            case.hold_secret(json.dumps(found.to_json(), allow_nan=False))

    def _used(self, name: str, value: Any, case: Case) -> bool:
        """Whether the file that the option names is read; the result contains nothing from outside."""
        found: Any
        try:
            if name == "config":
                found = read_config(value)
            elif name == "chat_template":
                found = choose_template({}, "qwen3", TokenizerFiles(), value, self._tokenizer).text
            else:
                found = read_rows(value).rows
        except AprnbError as error:
            found, used = str(error), False
        else:
            used = True
        case.hold_secret(found)
        return used


def hold_options(options: Mapping[str, Any], data: bytes, here: Path) -> None:
    """Raises WrongVerdict for options that no recipe file may set, or that are not what the file says."""
    allowed = {*OPTIONS, "model"} - set(FORBIDDEN)
    if not options.keys() <= allowed:
        raise WrongVerdict(f"the recipe sets {options.keys() - allowed}")
    for name in (*PATHS, "model"):
        value = options.get(name)
        if isinstance(value, str):
            _hold_path(name, value, here)
    for written, value in tomllib.loads(data.decode()).items():
        name = written.lstrip("-").replace("-", "_")
        found = options["overrides" if name == "set" else name]
        if type(value) is type(found) and repr(found) != repr(value) and not isinstance(value, list):
            raise WrongVerdict(f"{name} is {value!r} in the file and {found!r} as read")


def _hold_path(name: str, value: str, here: Path) -> None:
    """Both readings of a path, with `~` as a name and as a home folder, are below the working directory."""
    if "\0" in value:
        return
    for path in (value, os.path.expanduser(value)):  # noqa: PTH111  no code of pathlib, which the package uses
        real = os.path.realpath(here / path)
        if os.path.exists(real) and not f"{real}/".startswith(f"{os.path.realpath(here)}/"):  # noqa: PTH110  as above
            raise WrongVerdict(f"{name} = {value!r} leads to {real}")


def _paths(rng: random.Random, case: Case) -> list[str]:
    """Paths inside and outside, in several spellings."""
    name = rng.choice([Path(name).name for name in FILES])
    return [
        name, f"./{name}", f"sub/../{name}", f"../case/{name}", f"../outside/{name}", str(case.outside / name),
        str(case.folder / name), "link.jsonl", "inner.jsonl", f"elsewhere/{name}", f"elsewhere/../case/{name}",
        f"sub/../elsewhere/{name}", f"~/{name}", f"./~/{name}", "~", "~root/x", "~nobody-here/x", f" ~/{name}",
        f"sub/../../outside/{name}", f"{case.outside}/./{name}", f"//{case.outside}/{name}", "/dev/zero", "..", ".",
        "sub/eval.jsonl", "absent.jsonl", f"{name}/", f"{name}\0", "x" * 5_000, "a/" * 3_000, json.dumps(ROW),
        f"file://{case.outside}/{name}", f"{name}#", f"$HOME/{name}", f"elsewhere/../{name}", "sub",
    ]  # fmt: skip
