"""A checkpoint's files: in a folder, in the Hub's cache, or fetched into it; whole or refused. And what its
configuration says: the entry of the list for one that is not on it.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sencache.architectures import architecture_running, find_architecture, text_encoders
from sencache.errors import SencacheError
from sencache.hub.download import COMMIT, Hub, check_repo, explain_errors
from sencache.models.catalogue import MODELS
from sencache.models.placement import BYTES, TRANSFORMERS, Weights
from sencache.models.spec import ModelSpec
from sencache.models.zerogpu import check_disk, on_zerogpu

INDEX = "model_index.json"

# Folders of the parts only: many repositories hold the same weights again in other forms.
_FOLDERS = (
    *(part.replace("text_encoder", "tokenizer") for part in text_encoders()),
    *text_encoders(),
    *("image_encoder", "image_processor", "scheduler", "vae"),
    *TRANSFORMERS,
)
CONFIGS = (INDEX, *(f"{folder}/*config.json" for folder in _FOLDERS))
FILES = (
    INDEX,
    *(f"{folder}/*{kind}" for folder in _FOLDERS for kind in (".json", ".safetensors", ".model", ".txt")),
)
# A tokenizer's vocabulary: as transformers keeps it, or as sentencepiece does; the first is read where there
# are both.
FAST, SLOW = "tokenizer/tokenizer.json", "tokenizer/spiece.model"
# Other precisions of the same weights.
NOT_FILES = ("*.fp16*", "*.bf16*", "*.fp8*", "*.non_ema*")

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def find_spec(key: str, from_image: bool = False) -> ModelSpec:
    """The entry for a short name, a folder on this machine, or the Hub's `owner/name`.

    Of a repository that is not on the list the configuration is fetched. Raises SencacheError where there is
    nothing under that name, or a pipeline that is not supported.
    """
    if key in MODELS:
        return MODELS[key]
    if key and Path(key).is_dir():
        folder = Path(key).resolve()
        return describe_folder(folder, folder, from_image)
    if _HUB_NAME.fullmatch(key):
        listed = [spec for spec in MODELS.values() if spec.source == key]
        fitting = [spec for spec in listed if spec.from_image == from_image]
        known = next(iter(fitting or listed), None)
        return known or describe_folder(_snapshot(key, CONFIGS), key, from_image)
    raise SencacheError(
        f"unknown model {key!r}; choose from {', '.join(MODELS)}, or give a folder or a Hub repository "
        "as owner/name"
    )


def describe_folder(folder: Path, source: Path | str, from_image: bool = False) -> ModelSpec:
    """The entry for the checkpoint in `folder`, which is known to the user as `source`.

    Sizes, rules and widths come from the configuration of its VAE and transformer; where it does not say how
    it is meant to be run, from the family it belongs to. `from_image`: a still is to be used, which decides
    for checkpoints that take one or none. Raises SencacheError for pipelines that are not supported.
    """
    index = read_config(folder / INDEX)
    architecture = architecture_running(str(index.get("_class_name")), str(source))
    assert architecture.describe is not None, "a pipeline comes with it"
    transformer, vae = (read_config(folder / part / "config.json") for part in ("transformer", "vae"))
    return ModelSpec(
        **{
            **architecture.defaults,
            **architecture.describe(transformer, vae),
            # Never the whole path: reports carry the key.
            "key": source if isinstance(source, str) else source.name,
            "source": source,
            "pipeline": architecture.choose(index, from_image),
            "architecture": architecture.name,
            "licence": "see the repository",
            "parameters": dict.fromkeys(model_parts(index), 0),
        }
    )


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file; raises SencacheError when it is missing or not JSON."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SencacheError(
            f"{path.parent} is not a checkpoint in the layout of diffusers ({path.name}: {error.strerror}); "
            f"give a folder with a {INDEX}"
        ) from None
    except ValueError as error:
        raise SencacheError(f"{path} is damaged ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise SencacheError(f"{path} is damaged (no settings in it); fetch it again")
    return content


def model_parts(index: dict[str, Any]) -> list[str]:
    """The parts that have weights."""
    known = (*text_encoders(), "transformer", "transformer_2", "vae", "image_encoder")
    return [part for part in known if isinstance(index.get(part), list) and index[part][0]]


def offered_models() -> dict[str, ModelSpec]:
    """What the app offers to everyone: the model that the variable MODEL_ID names, else the bundled ones.

    Visitors must not make the app fetch and load whatever they name. Raises SencacheError for a model that
    needs a still, for which the page has no place.
    """
    if chosen := os.environ.get("MODEL_ID"):
        spec = find_spec(chosen)
        if spec.from_image:
            raise SencacheError(
                f"MODEL_ID is {chosen!r}, which starts from a still, and the app has no place for one; "
                "name a model that starts from text alone, as wan-1.3b, or use `python -m sencache compare "
                f"--model {chosen} --image FILE`"
            )
        return {spec.key: spec}
    return {key: spec for key, spec in MODELS.items() if spec.bundled}


def offered_model(key: str) -> ModelSpec:
    """One of them; raises SencacheError naming those there are."""
    offered = offered_models()
    if key not in offered:
        raise SencacheError(f"unknown model {key!r}; choose from {', '.join(offered)}")
    return offered[key]


def weights_folder(spec: ModelSpec) -> Path:
    """Where the model's files are, all of them, fetched first if need be; raises SencacheError with the
    remedy for whatever is in the way.
    """
    packed = Weights.of(spec).total if on_zerogpu() else 0
    folder = spec.source if isinstance(spec.source, Path) else _snapshot(spec.source, FILES, packed)
    if missing := missing_files(folder):
        raise read_error(spec, f"{missing[0]} is missing")
    return folder


def read_error(spec: ModelSpec, reason: str, file: str | None = None) -> SencacheError:
    """The error for files that cannot be used, with the remedy that fits where they come from: `file` alone,
    where it is known which.
    """
    if spec.bundled:
        remedy = "install the package again"
    elif isinstance(spec.source, Path):
        remedy = f"save the pipeline into {spec.source} again"
    elif file:
        remedy = f"fetch it again (`hf download {spec.source} {file} --force-download`)"
    else:
        remedy = f"delete it from the Hub's cache (`hf cache rm model/{spec.source}`) and load it again"
    what = "tokenizer" if file in (FAST, SLOW) else "weights"
    return SencacheError(f"the {what} of {spec.key} cannot be read ({reason}); {remedy}")


def cached_folder(spec: ModelSpec) -> Path | None:
    """The model's folder if all of its files are on this machine; never touches the network."""
    folder = spec.source if isinstance(spec.source, Path) else _kept_folder(spec.source, FILES)
    return folder if folder and not missing_files(folder) else None


def revision_of(folder: Path) -> str | None:
    """The commit of a folder in the Hub's cache, None for any other."""
    return folder.name if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name) else None


def missing_files(folder: Path) -> list[str]:
    """What a whole checkpoint would have and this folder has not; weights count in safetensors only."""
    if not (folder / INDEX).is_file():
        return [INDEX]
    index = read_config(folder / INDEX)
    parts = model_parts(index)
    named = [name for name, value in index.items() if isinstance(value, list) and value[0]]
    missing = [f"{name}/" for name in named if not (folder / name).is_dir()]
    missing += [f"{name}/config.json" for name in parts if not (folder / name / "config.json").is_file()]
    missing += [file for name in parts for file in _missing_weights(folder, name)]
    return missing or [file for name in named if (file := _missing_vocabulary(folder, name))]


def _missing_vocabulary(folder: Path, part: str) -> str | None:
    """Without one transformers makes it up."""
    if not part.startswith("tokenizer"):
        return None
    files = (SLOW, FAST) if part == "tokenizer" else (f"{part}/vocab.json", f"{part}/tokenizer.json")
    return None if any((folder / file).is_file() for file in files) else files[0]


def _missing_weights(folder: Path, part: str) -> list[str]:
    if indexes := weight_files(folder, part, ".index.json"):
        shards = sorted(set(read_config(indexes[0]).get("weight_map", {}).values()))
        return [f"{part}/{shard}" for shard in shards if not (folder / part / shard).is_file()]
    return [] if weight_files(folder, part) else [f"{part}/*.safetensors"]


def weight_files(folder: Path, part: str, ending: str = "") -> list[Path]:
    """Those of the precision that is loaded by default."""
    files = sorted((folder / part).glob(f"*.safetensors{ending}"))
    return [file for file in files if not any(file.match(pattern) for pattern in NOT_FILES)]


def check_tokenizer(spec: ModelSpec, folder: Path) -> None:
    """Raise SencacheError, naming the package or the file, where the tokenizer in `folder` cannot be read:
    asked before gigabytes of weights are. transformers blames `tiktoken` for both.
    """
    from tokenizers import Tokenizer

    name = FAST if (folder / FAST).is_file() else SLOW
    read: Any = Tokenizer.from_file
    try:
        if name == SLOW:
            # transformers reads `spiece.model` through the second, which needs protobuf.
            from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2  # noqa: F401

            read = SentencePieceProcessor().load
    # A protobuf that is too old raises a class of its own.
    except Exception as error:
        raise SencacheError(
            f"{spec.key} comes with {name}, and what reads it does not work here ({error}); "
            "run `pip install --upgrade protobuf sentencepiece`"
        ) from None
    try:
        read(str(folder / name))
    # The tokenizers library raises no narrower class.
    except Exception as error:
        raise read_error(spec, f"{name} is damaged: {error}", name) from None


def measure_weights(spec: ModelSpec, folder: Path, dtype: str | None = None) -> Weights:
    """What the parts will take once loaded, from the headers of their files alone.

    `dtype` is that of all parts, else each has its own. Raises SencacheError for damaged files.
    """
    parts, blocks = {}, Counter[tuple[str, str]]()
    block = re.compile(rf"(?:{'|'.join(find_architecture(spec.architecture).blocks)})\.\d+\.")
    for part in model_parts(read_config(folder / INDEX)):
        size = BYTES[dtype or spec.dtypes.get(part, spec.dtype)]
        counts = [each for file in weight_files(folder, part) for each in _tensors(spec, file)]
        parts[part] = size * sum(count for _, count in counts)
        for name, count in counts if part in TRANSFORMERS else ():
            if found := block.match(name):
                blocks[part, found[0]] += size * count
    return Weights(parts, blocks.total(), max(blocks.values(), default=0))


def _tensors(spec: ModelSpec, file: Path) -> Iterator[tuple[str, int]]:
    """Name and number of elements of every tensor in a file."""
    try:
        with safe_open(file, "numpy") as opened:
            yield from ((name, prod(opened.get_slice(name).get_shape())) for name in opened.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise read_error(spec, f"{file.parent.name}/{file.name}: {error}") from None


def _download(repo: str, patterns: tuple[str, ...], local_files_only: bool = False) -> Path:
    """The repository's folder in the Hub's cache."""
    import huggingface_hub

    wanted: dict[str, Any] = {"allow_patterns": list(patterns), "ignore_patterns": list(NOT_FILES)}
    return Path(huggingface_hub.snapshot_download(repo, local_files_only=local_files_only, **wanted))


def _kept_folder(repo: str, patterns: tuple[str, ...]) -> Path | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return _download(repo, patterns, local_files_only=True)
    except LocalEntryNotFoundError:
        return None


def _snapshot(repo: str, patterns: tuple[str, ...], packed: int = 0) -> Path:
    """The repository's files, from the cache where it is whole, else from the Hub at `main`, if the disk has
    room for them and for `packed` bytes more.
    """
    check_repo(repo)
    kept = _kept_folder(repo, patterns)
    if kept:
        configs = (INDEX, "transformer/config.json", "vae/config.json")
        whole = (
            all((kept / name).is_file() for name in configs)
            if patterns == CONFIGS
            else not missing_files(kept)
        )
        if whole:
            return kept
    with explain_fetch(repo, kept):
        import huggingface_hub

        # Asked first: a fetch that fails says less about why.
        info = huggingface_hub.HfApi().model_info(repo, files_metadata=True, timeout=Hub().timeout)
        check_disk(repo, _bytes_to_fetch(info, patterns), packed)
        return _download(repo, patterns)


def _bytes_to_fetch(info: Any, patterns: tuple[str, ...]) -> int:
    """Of the files that are not in the cache yet."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects

    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    names = filter_repo_objects(sizes, allow_patterns=list(patterns), ignore_patterns=list(NOT_FILES))
    return sum(sizes[name] for name in names if not isinstance(try_to_load_from_cache(info.id, name), str))


@contextmanager
def explain_fetch(repo: str, kept: Path | None) -> Iterator[None]:
    """Whatever the Hub's client raises while it fetches a model becomes one sentence with the remedy."""
    from huggingface_hub import errors

    try:
        with explain_errors(f"get {repo}", Hub()):
            try:
                yield
            except errors.LocalEntryNotFoundError as error:
                # The client hides the reason behind the file that it then did not find.
                raise error.__cause__ or errors.OfflineModeIsEnabled() from None
    except SencacheError as error:
        if kept is not None and os.environ.get("HF_HUB_OFFLINE"):
            lost = next(iter(missing_files(kept)), "a file")
            raise SencacheError(
                f"the copy of {repo} under {kept} was not fetched to its end ({lost} is missing); "
                "unset HF_HUB_OFFLINE and load it again to fetch the rest"
            ) from None
        raise error from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise SencacheError(
                f"the disk is full, so {repo} was not fetched to its end; make room and load it again"
            ) from None
        raise SencacheError(
            f"cannot get {repo} ({error.strerror or error}); check the Hub's cache folder and load it again"
        ) from None
