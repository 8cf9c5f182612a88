"""What a run needs in memory, term by term (no torch).

The terms follow from what has to be in memory at the peak of one optimizer step; each function says its formula. They
hold for the families of this package, trained by its loop (packed rows, loss over labelled positions in chunks).
Weights, adapters, gradients and optimizer are exact up to the allocator; activations count the tensors that autograd
keeps for the backward pass of transformers' layers.
"""

from __future__ import annotations

import dataclasses
from math import prod

from aprnb.architecture import Architecture, expected_tensors
from aprnb.dtype_names import FLOATS
from aprnb.errors import UsageProblem, closest
from aprnb.formats.dtypes import BY_NAME

# One chunk of float32 logits: small compared with any model, large enough that the head runs at full speed.
LOGIT_CHUNK_BYTES = 128 * 2**20
DTYPE_BYTES = {dtype.in_torch: BY_NAME[dtype.name].block_bytes for dtype in FLOATS}
ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
_KEPT_IN_STEPS = {"gelu_new": 3}  # activation of transformers → tensors that its steps keep beyond input and output
LIBRARY_BYTES = {"cpu": 430 << 20, "cuda": 0}
"""Python with torch, transformers and PEFT, once they have computed; no part of what a GPU's allocator reserves."""
KERNEL_BYTES, MOST_KERNEL_BYTES = 22 << 20, 900 << 20
"""What oneDNN compiles in 16 bits for one length of a micro-batch, by measurement, and where its cache ends."""
PROBES, PROBE_TOKENS = 4, 128
"""Rows with which the written model is compared with the trained one, and how many of their tokens."""
OPTIMIZER_BYTES = {"adamw": 8.0, "adamw8bit": 2.0 + 2 * 4 / 256, "paged_adamw8bit": 2.0 + 2 * 4 / 256}


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Bytes at the peak of the run: of an optimizer step, and what the check of the written model needs beyond it."""

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    kernels: int = 0
    libraries: int = 0
    checking: int = 0

    @property
    def total(self) -> int:
        """The sum of all terms."""
        return sum(dataclasses.astuple(self))

    def to_json(self) -> dict[str, int]:
        """The terms by name, and their total."""
        return {**dataclasses.asdict(self), "total": self.total}


Matrices = dict[str, list[tuple[int, int]]]
"""Module name (`q_proj`) → [outputs, inputs] in each layer."""


def linear_shapes(architecture: Architecture) -> Matrices:
    """The linear modules of the layers, from the family's table: what NF4 quantises; no experts, no routers."""
    found: Matrices = {}
    for name, tensor in expected_tensors(architecture).items():
        if tensor.rule.role in ("linear", "conv1d"):
            rows, columns = tensor.shape if tensor.rule.role == "linear" else tensor.shape[::-1]
            found.setdefault(name.split(".")[-2], []).append((rows, columns))
    return found


def adapted_shapes(architecture: Architecture, target_modules: str | tuple[str, ...] = "all-linear") -> Matrices:
    """The linear modules that get an adapter: all, or those of attention where experts are stacked in one tensor.

    Raises UsageProblem for a module that the layers do not have, or that takes no adapter.
    """
    linears = linear_shapes(architecture)
    if expert_parameters(architecture):
        linears = {name: shapes for name, shapes in linears.items() if name in ATTENTION_MODULES}
    names = tuple(linears) if isinstance(target_modules, str) else target_modules
    for name in names:
        if name not in linears:
            found = f"--target-modules {name}{closest(name, linears)}"
            raise UsageProblem(found, expected="all-linear, or some of " + ", ".join(linears))
    return {name: linears[name] for name in names}


def expert_parameters(architecture: Architecture) -> int:
    """Parameters of all experts; 0 in a family without them."""
    tensors = expected_tensors(architecture).values()
    return sum(prod(tensor.shape) for tensor in tensors if tensor.rule.role == "expert")


def adapter_parameters(
    architecture: Architecture, rank: int, target_modules: str | tuple[str, ...] = "all-linear"
) -> int:
    """Parameters of the LoRA matrices: rank · (inputs + outputs) per module (Hu et al. 2021, section 4.1).

    Raises UsageProblem for a module that the layers do not have.
    """
    adapted = adapted_shapes(architecture, target_modules).values()
    return sum(rank * (rows + columns) for shapes in adapted for rows, columns in shapes)


def plan_memory(
    architecture: Architecture,
    parameters: int,
    trainable: int,
    *,
    method: str,
    dtype: str,
    optimizer: str,
    checkpointing: bool,
    micro_batch_tokens: int,
    lengths: int = 1,
    device: str = "cpu",
    probe_tokens: int = 0,
) -> MemoryPlan:
    """Memory by term for the largest micro-batch; `method` is lora, qlora or full, `dtype` that of the frozen base.

    `lengths` says how many different ones the micro-batches have, `probe_tokens` with how many tokens the written model
    is checked; 0 where none is written.
    """
    compiles = device == "cpu" and dtype != "float32"
    step = MemoryPlan(
        weights=weight_bytes(architecture, parameters, method, dtype),
        adapters=0 if method == "full" else 4 * trainable,
        gradients=4 * trainable,
        optimizer=round(OPTIMIZER_BYTES[optimizer] * trainable),
        activations=activation_bytes(architecture, micro_batch_tokens, method, dtype, checkpointing),
        logits=logit_bytes(architecture, micro_batch_tokens),
        kernels=min(KERNEL_BYTES * lengths, MOST_KERNEL_BYTES) if compiles else 0,
        libraries=LIBRARY_BYTES.get(device, 0),
    )
    if not probe_tokens:
        return step
    second = checking_bytes(architecture, parameters, method, dtype, probe_tokens)
    needed = step.weights + step.adapters + step.kernels + step.libraries + second
    return dataclasses.replace(step, checking=max(0, needed - step.total))


def checking_bytes(architecture: Architecture, parameters: int, method: str, dtype: str, tokens: int) -> int:
    """What the check of the written model needs besides the trained one: a second model in the run's dtype.

    With it two and a half float32 copies of the largest weight, while that is compared, and the logits of the probes:
    trained, expected, found. Where all weights were trained, the file's weights are in memory besides.
    """
    model = DTYPE_BYTES[dtype] * parameters * (2 if method == "full" else 1)
    largest = max(prod(tensor.shape) for tensor in expected_tensors(architecture).values())
    return model + 10 * largest + 3 * 4 * architecture.vocab_size * tokens


def weight_bytes(architecture: Architecture, parameters: int, method: str, dtype: str) -> int:
    """Bytes of the base: its dtype (lora), float32 (full: master weights), or NF4 for the layers' matrices (qlora).

    NF4 takes 4 bits per weight, one byte per block of 64 for its scale and 4 bytes per 256 scales (double quantisation,
    Dettmers et al. 2023, section 3); embedding, head and norms keep the dtype. Full training in 16 bits holds a 16-bit
    copy of the weights during a pass.
    """
    if method == "full":
        return (4 if dtype == "float32" else 4 + 2) * parameters
    if method != "qlora":
        return DTYPE_BYTES[dtype] * parameters
    matrices = nf4_parameters(architecture)
    return nf4_bytes(matrices) + DTYPE_BYTES[dtype] * (parameters - matrices)


def nf4_parameters(architecture: Architecture) -> int:
    """How many parameters NF4 applies to: the linear modules of the layers."""
    return sum(rows * columns for linears in linear_shapes(architecture).values() for rows, columns in linears)


def nf4_bytes(parameters: int) -> int:
    """Bytes of so many weights in NF4, with their scales."""
    return round(parameters * (0.5 + 1 / 64 + 4 / (64 * 256)))


def activation_bytes(architecture: Architecture, tokens: int, method: str, dtype: str, checkpointing: bool) -> int:
    """Bytes that autograd keeps for one micro-batch of `tokens`.

    With checkpointing the input of each layer stays and one layer at a time is computed again.
    """
    layer = tokens * layer_activation_elements(architecture, tokens, method, dtype) * DTYPE_BYTES[dtype]
    boundary = tokens * architecture.hidden_size * DTYPE_BYTES[dtype]
    layers = architecture.num_hidden_layers
    # The boolean mask that keeps packed documents apart exists once; each layer's copy in the dtype is counted there.
    return tokens * tokens + boundary + (layers * boundary + layer if checkpointing else layers * layer)


def layer_activation_elements(architecture: Architecture, tokens: int, method: str, dtype: str) -> int:
    """Elements per token that one layer of transformers keeps for the backward pass, in units of the dtype.

    Norms keep their input; RMS norms keep it in float32, and in full training what they multiply with their weight.
    Linear modules keep what goes into them. Attention keeps queries, keys and values repeated to the number of heads,
    its output, and one row of the mask; `eager` attention also its matrix, capped, after the softmax, and cast.
    Counted with saved-tensor hooks, which the tests do again for every family.
    """
    full, single = method == "full", dtype == "float32"
    norms = [rule for rule in architecture.family.tensors if rule.per_layer and rule.role == "norm"]
    layer_norm = any(rule.name.endswith(".bias") for rule in norms)
    kept = (1 if single or not full else 2) if layer_norm else (2 if full else 1) * (1 if single else 2)
    hidden_norms = sum(rule.shape == ("hidden_size",) and rule.name.endswith("weight") for rule in norms)
    queries = architecture.num_attention_heads * architecture.head_dim
    keys = architecture.num_key_value_heads * architecture.head_dim
    return (
        (hidden_norms * kept + (4 if full and not single else 2)) * architecture.hidden_size
        + 4 * queries
        + (kept * (queries + keys) if any(rule.shape != ("hidden_size",) for rule in norms) else 0)
        + _mlp_elements(architecture, full)
        + tokens
        + (architecture.num_attention_heads * tokens * (2 if single else 4) if architecture.attention == "eager" else 0)
    )


def _mlp_elements(architecture: Architecture, full: bool) -> int:
    """Gated: gate, activated gate, up and their product; else the linear module's output and the activated one.

    Some activations are computed in steps that each keep something. Each chosen expert also keeps its output, and
    where it is trained what goes into its matrices.
    """
    width, hidden = architecture.intermediate_size, architecture.hidden_size
    if expert_parameters(architecture):
        expert = architecture["moe_intermediate_size"] or width
        kept = 4 * int(expert) + 2 * hidden if full else 3 * int(expert) + hidden
        sparse = int(architecture["num_experts_per_tok"]) * kept
        return max(sparse, 4 * width if _has_gate(architecture) else 0)
    return ((4 if _has_gate(architecture) else 2) + _KEPT_IN_STEPS.get(architecture.hidden_act, 0)) * width


def _has_gate(architecture: Architecture) -> bool:
    """Whether a layer has three matrices of the MLP's width, not two; gate and up may be one of twice the width."""
    rules = {tensor.rule for tensor in expected_tensors(architecture).values()}
    sizes = [size for rule in rules if rule.role in ("linear", "conv1d") for size in rule.shape]
    return sizes.count("intermediate_size") + 2 * sizes.count("2*intermediate_size") > 2


def logit_bytes(architecture: Architecture, tokens: int) -> int:
    """Three float32 copies (logits, log-softmax, gradient) of one chunk of labelled positions."""
    return 3 * 4 * architecture.vocab_size * min(tokens, chunk_positions(architecture.vocab_size))


def chunk_positions(vocab_size: int) -> int:
    """How many positions go through the head at once."""
    return max(16, LOGIT_CHUNK_BYTES // (4 * vocab_size))
