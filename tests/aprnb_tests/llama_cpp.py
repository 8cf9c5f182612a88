"""llama.cpp as a second reader of what we write: its own server in a process of its own, asked over HTTP.

`python llama_cpp.py MODEL.gguf [ADAPTER.gguf]` is that process: it prints its address and ends with its standard input.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class LlamaCppError(Exception):
    """llama.cpp cannot load the file, or rejects a request; the message has its own words."""


class LlamaCpp:
    """A loaded model: float32 key-value cache, one thread, no flash attention, so that its figures are exact."""

    def __init__(self, model: Path, adapter: Path | None = None) -> None:
        command = [sys.executable, __file__, *map(str, filter(None, (model, adapter)))]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self._process.stdout is not None
        self._url = next((line for line in self._process.stdout if line.startswith("http")), "").strip()
        if not self._url:
            _, errors = self._process.communicate()
            raise LlamaCppError(errors[-2000:])

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def tokenize(self, text: str, *, special: bool = True, add_special: bool = False) -> list[int]:
        """Ids of `text`; with `special`, special tokens in the text become one id each."""
        asked = {"content": text, "add_special": add_special, "parse_special": special}
        return self._post("tokenize", asked)["tokens"]

    def detokenize(self, ids: Sequence[int]) -> str:
        return self._post("detokenize", {"tokens": list(ids)})["content"]

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The conversation in the file's own chat template."""
        return self._post("apply-template", {"messages": list(messages)})["prompt"]

    def log_probabilities(self, ids: Sequence[int], count: int = 20) -> dict[int, float]:
        """The `count` likeliest next ids after `ids`, with their natural log-probabilities."""
        found = self._complete(ids, 1, n_probs=count)["completion_probabilities"][0]["top_logprobs"]
        return {entry["id"]: entry["logprob"] for entry in found}

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """Up to `count` likeliest ids, one after the other."""
        return self._complete(ids, count)["tokens"]

    def _complete(self, ids: Sequence[int], count: int, **options: Any) -> dict[str, Any]:
        asked = {
            "prompt": list(ids), "n_predict": count, "temperature": 0, "samplers": ["temperature"],
            "cache_prompt": False, "return_tokens": True, "stream": False,
        }  # fmt: skip
        return self._post("completion", asked | options)

    def _post(self, path: str, document: Mapping[str, Any]) -> Any:
        data = json.dumps(document).encode()
        request = urllib.request.Request(f"{self._url}/{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise LlamaCppError(error.read().decode(errors="replace")) from error


def serve(model: str, adapter: str | None = None) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel, params.n_batch, params.n_ubatch = 1024, 1, 512, 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_gpu_layers, params.n_threads_http, params.verbosity = 0, 2, 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = params.fit_params = params.cache_prompt = False
    params.cache_ram_mib = params.n_ctx_checkpoints = 0
    params.use_jinja = True
    if adapter is not None:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = adapter, 1.0
        params.lora_adapters = [lora]
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(*sys.argv[1:])
