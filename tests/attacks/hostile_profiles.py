"""Profile files that must be refused, by name: their bytes, and the code of the refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from documents import changed, whole, without

Cases = Iterator[tuple[str, bytes, str]]
NAN, INF, DIGITS = float("nan"), float("inf"), 10**30


def encoded(data: Any) -> bytes:
    return json.dumps(data).encode()


SOUND = encoded(whole())
STEPS = 50


def edited(place: str, value: Any) -> bytes:
    """The sound profile with another value at `place`."""
    return encoded(changed(place, value))


def spliced(place: str, raw: str) -> bytes:
    """The sound profile with `raw`, which need not be JSON, as the value at `place`."""
    return encoded(changed(place, "@@")).replace(b'"@@"', raw.encode("utf-8", "surrogatepass"))


# ---- numbers

POSITIVE = ("magcache/ratios/7",)
NOT_NEGATIVE = (
    *("sensitivity/alpha_x/0", "sensitivity/alpha_t/24", "sensitivity/alpha_x_std/3"),
    *("sensitivity/alpha_t_std/48", "calibration/seconds", "guidance_scale", "forecast/lambda"),
)
ANY_SIGN = ("teacache/coefficients/0", "schedule/timesteps/0", "schedule/sigmas/49", "forecast/table/3/4")
COUNTS = (
    *("schedule/steps", "shape/height", "shape/width", "shape/frames", "shape/latent/1", "shape/elements"),
    *("sensitivity/samples", "teacache/forced_first", "teacache/forced_last", "calibration/seeds/2"),
    "forecast/samples",
)
FREE = ("schedule/config/flow_shift", "presets/slow/sencache/tolerance")


def numbers() -> Cases:
    for place in (*POSITIVE, *NOT_NEGATIVE, *ANY_SIGN, *FREE):
        for raw in ("NaN", "-Infinity", "1e400"):
            yield (f"{raw} at {place}", spliced(place, raw), "profile.not-finite")
        for raw in ("1e300", str(DIGITS)):
            yield (f"{raw} at {place}", spliced(place, raw), "profile.out-of-range")
    for place in (*POSITIVE, *NOT_NEGATIVE, *COUNTS):
        yield (f"-1 at {place}", spliced(place, "-1"), "profile.out-of-range")
    for place in (*POSITIVE, *NOT_NEGATIVE, *ANY_SIGN, *COUNTS):
        for raw in ('"1"', "true", "[]", "{}"):
            yield (f"{raw} at {place}", spliced(place, raw), "profile.wrong-type")
        if place != "guidance_scale":
            yield (f"null at {place}", spliced(place, "null"), "profile.wrong-type")
    for place in COUNTS:
        yield (f"a fraction at {place}", spliced(place, "1.5"), "profile.wrong-type")
        yield (f"{DIGITS} at {place}", spliced(place, str(DIGITS)), "profile.out-of-range")
    for place in (*POSITIVE, *FREE, *COUNTS):
        yield (f"an endless integer at {place}", spliced(place, "9" * 500_000), "json.number")


# ---- keys

OBJECTS = (
    *("model", "schedule", "shape", "sensitivity", "magcache", "teacache", "forecast", "calibration"),
    "provenance",
)
REQUIRED = (
    *("model", "schedule", "shape", "guidance_scale", "dtype", "sensitivity", "magcache", "teacache"),
    *("calibration", "provenance", "schema", "model/id", "model/architecture", "schedule/scheduler"),
    *("schedule/steps", "shape/latent", "shape/elements", "sensitivity/alpha_x", "sensitivity/alpha_t_std"),
    *("sensitivity/samples", "sensitivity/target", "magcache/ratios", "teacache/coefficients"),
    *("teacache/signal", "calibration/seeds", "provenance/kind", "provenance/source", "provenance/licence"),
    *("forecast/table", "forecast/target", "forecast/samples", "forecast/lambda"),
)


def keys() -> Cases:
    for place in OBJECTS:
        for key in ("__class__", "__proto__", "alpha", "_origin", "\x1b[2J\nroot: "):
            yield (f"{key!r} in {place}", edited(f"{place}/{key}", 1), "profile.unknown-key")
        twice = SOUND.replace(f'"{place}": {{'.encode(), f'"{place}": {{"id": 1, "id": 2, '.encode(), 1)
        yield (f"a key twice in {place}", twice, "json.duplicate-key")
        yield (f"{place} as a list", edited(place, [whole()[place]]), "profile.wrong-type")
        yield (f"{place} as a text", edited(place, "{}"), "profile.wrong-type")
    for place in REQUIRED:
        code = "profile.wrong-schema" if place == "schema" else "profile.missing-key"
        yield (f"no {place}", encoded(without(place)), code)
    for key in ("_origin", "_repo", "model_config", "schema_", "sha256", ""):
        code = "profile.unknown-key"
        yield (f"{key!r} at the top", encoded({**whole(), key: "x"}), code)
    yield ("every key twice", SOUND[:-1] + b"," + SOUND[1:], "json.duplicate-key")
    yield ("a key twice, once escaped", SOUND[:-1] + b', "mod\\u0065l": null}', "json.duplicate-key")
    yield (
        "a key twice, deep in a preset",
        spliced("presets/slow/sencache", '{"tolerance": 0.1, "tolerance": 1e9}'),
        "json.duplicate-key",
    )
    many = ",".join(f'"k{k}": 0' for k in range(60_000))
    for place in ("schedule/config", "presets", "presets/slow", "presets/slow/sencache", "model/x"):
        yield (f"60,000 keys in {place}", spliced(place, f"{{{many}}}"), "json.too-many-keys")
    yield (
        "150 settings",
        edited("schedule/config", {f"k{k}": 0 for k in range(150)}),
        "profile.wrong-length",
    )


# ---- lists

TABLES = (
    *("sensitivity/alpha_x", "sensitivity/alpha_t", "sensitivity/alpha_x_std", "sensitivity/alpha_t_std"),
    *("magcache/ratios", "schedule/timesteps", "schedule/sigmas"),
)


def lists() -> Cases:
    for place in TABLES:
        part, name = place.split("/")
        values = whole()[part][name]
        for count in (2, len(values) // 2, len(values) + 2, 1000):
            wrong = (values * STEPS)[:count]
            wrong = sorted(wrong, reverse=True) if name == "timesteps" else wrong
            yield (f"{count} values in {place}", edited(place, wrong), "profile.inconsistent")
        yield (f"a text in {place}", edited(place, "1.0" * 10), "profile.wrong-type")
        yield (f"an object in {place}", edited(place, {"0": 1.0}), "profile.wrong-type")
    for place in ("sensitivity/alpha_x", "teacache/coefficients", "calibration/seeds", "shape/latent"):
        for raw, count, code in (
            ("1", 450_000, "profile.wrong-length"),
            ('"a"', 220_000, "profile.wrong-type"),
            ("{}", 15_000, "profile.wrong-type"),
            ("[]", 15_000, "profile.wrong-type"),
            ("{}", 300_000, "json.too-many-parts"),
            ("[]", 300_000, "json.too-many-parts"),
        ):
            entries = ",".join([raw] * count)
            yield (f"{count:,} times {raw} in {place}", spliced(place, f"[{entries}]"), code)
        yield (f"a million entries in {place}", spliced(place, f"[{'1,' * 999_999}1]"), "file.too-large")
    for place in ("schedule/config/flow_shift", "presets/fast/fixed"):
        wrong = "wrong-length" if "config" in place else "wrong-type"
        yield (f"400,000 entries in {place}", spliced(place, f"[{'1,' * 399_999}1]"), f"profile.{wrong}")
    yield ("no coefficients", edited("teacache/coefficients", []), "profile.wrong-length")
    yield ("no latent", edited("shape/latent", []), "profile.wrong-length")


def timesteps() -> Cases:
    values = whole()["schedule"]["timesteps"]
    for name, wrong in {
        "rising once": [*values[:24], values[25], values[24], *values[26:]],
        "rising by a hair": [*values[:-1], values[-2] + 1e-9],
        "rising at the end": [*values[:-1], 1e8],
    }.items():
        yield (f"timesteps {name}", edited("schedule/timesteps", wrong), "profile.inconsistent")
    yield ("sensitivities at no timesteps", edited("schedule/timesteps", None), "profile.inconsistent")
    yield ("a latent of another size", edited("shape/elements", 5121), "profile.inconsistent")
    yield ("fewer steps than tables", edited("schedule/steps", 49), "profile.inconsistent")


def grams() -> Cases:
    place, rows = "forecast/table", whole()["forecast"]["table"]
    long = [[float(i == j) for j in range(201)] for i in range(201)]
    for name, table, code in (
        ("201 rows", long, "wrong-length"),
        ("rows of 201", [[*row, *row, *row, *row, *row][:201] for row in rows], "wrong-length"),
        ("no rows", [], "wrong-length"),
        ("a row too few", rows[:-1], "inconsistent"),
        ("a square too small", [row[:-1] for row in rows[:-1]], "inconsistent"),
        ("a square too large", [row[:51] for row in long[:51]], "inconsistent"),
        ("a short row", [*rows[:-1], rows[-1][:-1]], "inconsistent"),
    ):
        yield (f"{name} in {place}", edited(place, table), f"profile.{code}")
    largest = max(rows[k][k] for k in range(STEPS))
    for name, values in {
        "asymmetric": {(3, 9): rows[3][9] + 0.01 * largest},
        "not positive semidefinite": dict.fromkeys(((3, 9), (9, 3)), 2 * largest),
        "zero on the diagonal": {(7, 7): 0.0},
        "negative on the diagonal": {(7, 7): -rows[7][7]},
        "zero throughout": {(i, j): 0.0 for i in range(STEPS) for j in range(STEPS)},
    }.items():
        table = [[values.get((i, j), value) for j, value in enumerate(row)] for i, row in enumerate(rows)]
        yield (f"a table {name}", edited(place, table), "profile.inconsistent")
    for name, raw in {
        "a text": '"1.0"',
        "an object": '{"0": [1.0]}',
        "a flat list": str([1.0] * STEPS),
        "texts for rows": str(["1.0"] * STEPS).replace("'", '"'),
        "objects for rows": str([{}] * STEPS),
    }.items():
        yield (f"{name} as {place}", spliced(place, raw), "profile.wrong-type")
    endless = spliced(f"{place}/0", f"[{'1,' * 399_999}1]")
    yield (f"400,000 entries in a row of {place}", endless, "profile.wrong-length")
    yield ("another target", edited("forecast/target", "residual"), "profile.unknown-value")
    yield ("a lambda above one", edited("forecast/lambda", 1.5), "profile.out-of-range")
    untimed = changed("sensitivity", None)
    untimed["schedule"]["timesteps"] = None
    yield ("a table at no timesteps", encoded(untimed), "profile.inconsistent")


# ---- depth, text, names


def deep() -> Cases:
    for place in ("model/id", "schedule/config/flow_shift", "presets", "magcache/ratios/0", "sensitivity"):
        for raw, name in (("[", "]"), ('{"a":', "}")):
            closed = raw * 15_000 + "1" + name * 15_000
            yield (f"{raw} 15,000 deep at {place}", spliced(place, closed), "json.too-deep")
            yield (
                f"{raw} 150,000 deep and open at {place}",
                spliced(place, raw * 150_000),
                "json.too-many-parts",
            )
    for depth in (2, 150, 400):
        nested = "[" * depth + "NaN" + "]" * depth
        code = "profile.not-json" if depth > 200 else "profile.wrong-type"
        yield (f"a list {depth} deep in a setting", spliced("schedule/config/flow_shift", nested), code)
    yield (
        "an object in a setting",
        spliced("presets/slow/sencache/tolerance", '{"a": 1}'),
        "profile.wrong-type",
    )


def encodings() -> Cases:
    text = SOUND.decode()
    yield ("a byte order mark", b"\xef\xbb\xbf" + SOUND, "json.encoding")
    for encoding in ("utf-16", "utf-32", "cp037", "utf-16-le", "utf-16-be"):
        code = "json.syntax" if encoding.startswith("utf-16-") else "json.encoding"
        yield (f"in {encoding}", text.encode(encoding), code)
    for name, raw in {
        "latin-1": b"caf\xe9",
        "an overlong slash": b"\xc0\xaf",
        "a lone continuation": b"\x80",
        "a cut sequence": b"\xe2\x82",
        "an encoded surrogate": b"\xed\xa0\x80",
        "beyond unicode": b"\xf4\x90\x80\x80",
    }.items():
        broken = SOUND.replace(b'"sencache calibrate"', b'"' + raw + b'"')
        yield (f"{name} in a text", broken, "json.encoding")
    for name, raw in {"NUL": b"\x00", "a line break": b"\n", "an escape": b"\x1b", "a tab": b"\t"}.items():
        yield (
            f"{name} in a text",
            SOUND.replace(b'"sencache calibrate"', b'"a' + raw + b'b"'),
            "json.syntax",
        )
    yield ("a lone surrogate", spliced("provenance/source", '"\\ud800"'), "profile.not-json")
    yield ("an unknown escape", spliced("provenance/source", '"\\x41"'), "json.syntax")


def syntax() -> Cases:
    for name, raw in {
        "nothing": b"",
        "blanks": b" \n\t" * 1000,
        "NUL bytes": b"\x00" * 1000,
        "two documents": SOUND + SOUND,
        "a document and more": SOUND + b"x",
        "a comment": b"// profile\n" + SOUND,
        "single quotes": SOUND.replace(b'"', b"'"),
        "a comma too many": SOUND[:-1] + b",}",
        "python": repr(whole()).encode(),
        "yaml": b"schema: sencache.profile/1\n",
        "html": b"<html><body>404</body></html>",
        "a gzip": b"\x1f\x00\x08\x00" + SOUND,
        "octal": spliced("schedule/steps", "050"),
        "hexadecimal": spliced("schedule/steps", "0x32"),
        "a plus sign": spliced("schedule/steps", "+50"),
        "a point and no digits": spliced("guidance_scale", "4."),
        "undefined": spliced("dtype", "undefined"),
        "True": spliced("dtype", "True"),
        "nan": spliced("guidance_scale", "nan"),
        "an underscore": spliced("schedule/steps", "5_0"),
    }.items():
        yield (name, raw, "json.syntax")
    for raw in (b"null", b"1", b'"x"', b"[]", b"true"):
        yield (f"only {raw!r}", raw, "profile.wrong-type")
    yield ("an empty object", b"{}", "profile.wrong-schema")
    for k in range(1, 16, 3):
        yield (f"cut after {k}/16", SOUND[: len(SOUND) * k // 16], "json.syntax")
    yield ("a megabyte and a byte", SOUND.ljust(1_000_001), "file.too-large")
    yield ("ten megabytes", SOUND.ljust(10_000_000), "file.too-large")


PATHS = (
    *("../../etc/passwd", "/etc/passwd", "..", "a/../../b", "a/b/c", "C:\\windows", "a\\..\\b", "a\x00b"),
    *("a\nb", "\x1b[31mred", "~/x", "", " ", "a b", "-rf", "[red]a[/red]", "a/.b", "file:///etc/passwd"),
    *("a%2f..", "ａ"),
)


def names() -> Cases:
    for path in PATHS:
        yield (f"the model {path!r}", edited("model/id", path), "profile.bad-name")
        yield (f"the preset {path!r}", edited("presets", {path: {}}), "profile.bad-name")
        yield (f"the setting {path!r}", edited("schedule/config", {path: 1}), "profile.bad-name")
    for place in ("model/revision", "calibration/versions"):
        for path in ("../x", "a\nb"):
            wrong: Any = path if place == "model/revision" else {path: "1"}
            yield (f"{path!r} at {place}", edited(place, wrong), "profile.bad-name")
    for place in ("model/id", "dtype", "schedule/scheduler", "provenance/source", "calibration/prompts/0"):
        yield (f"900 kB at {place}", edited(place, "x" * 900_000), "profile.wrong-length")
    yield ("900 kB in a setting", edited("schedule/config/flow_shift", "x" * 900_000), "profile.wrong-length")
    yield ("a preset called with 900 kB", edited("presets", {"x" * 900_000: {}}), "profile.wrong-length")
    yield ("'Flux 1' at model/architecture", edited("model/architecture", "Flux 1"), "profile.bad-name")
    for place, wrong in {
        "teacache/signal": "../time_embedding",
        "sensitivity/target": "delta",
        "provenance/kind": "official",
    }.items():
        yield (f"{wrong!r} at {place}", edited(place, wrong), "profile.unknown-value")
    for schema in ("sencache.profile/2", "sencache.report/1", "", "SENCACHE.PROFILE/1", None, 1):
        yield (f"the schema {schema!r}", edited("schema", schema), "profile.wrong-schema")


# ---- what would make every step reuse

TABLE = [0.0] * 49
EVERYTHING = {
    "sencache": {"tolerance": 1e9, "early_tolerance": 1e9, "max_reuses": 1000},
    "magcache": {"threshold": 1e9, "max_reuses": 1000, "retention": 0},
    "teacache": {"threshold": 1e9},
    "easycache": {"threshold": 1e9},
    "control": {"tolerance": 1e9, "max_reuses": 1000},
    "fixed": {"steps": [0]},
}


def greedy() -> Cases:
    zero = whole()["sensitivity"] | {"alpha_x": TABLE, "alpha_t": TABLE}
    yield ("sensitivities of zero", edited("sensitivity", zero), "profile.inconsistent")
    for name, coefficients in {
        "zero": [0.0] * 5,
        "negative": [0.0, 0.0, 0.0, 0.0, -1.0],
        "falling": [-1e6, 0.0, 0.0, -1.0, 0.0],
        "negative wherever signals go": [0.0, 0.0, 1.0, 0.0, -2.0],
    }.items():
        yield (
            f"a polynomial that is {name}",
            edited("teacache/coefficients", coefficients),
            "profile.inconsistent",
        )
    code = "profile.reuses-everything"
    for name, coefficients in {"tiny": [1e-9], "tiny at its best": [-1e-3, 1e-4, 0.0]}.items():
        yield (f"a polynomial that is {name}", edited("teacache/coefficients", coefficients), code)
    for method, settings in EVERYTHING.items():
        for preset in ("slow", "hidden"):
            greedy = whole()["presets"] | {preset: {method: settings}}
            yield (f"{method} without end as {preset}", edited("presets", greedy), code)
    ratios = changed("magcache/ratios", [1.0] * STEPS)
    ratios["presets"] = {"slow": {"magcache": {"threshold": 0.12, "max_reuses": 1000, "retention": 0.2}}}
    yield ("ratios of one without a cap", encoded(ratios), code)
    faint = changed("sensitivity/alpha_x", [1e-12] * 49)
    faint["sensitivity"]["alpha_t"] = [0.0] * 49
    faint["presets"] = {"slow": {"sencache": {"tolerance": 0.1, "max_reuses": 1000, "early_fraction": 0}}}
    yield ("sensitivities of next to zero without a cap", encoded(faint), code)
    late = {"fixed": {"interval": 1000}}
    yield ("a step in a thousand", edited("presets", {"slow": late}), code)


def presets() -> Cases:
    for name, preset in {
        "an unknown method": {"nocache": {}},
        "an unknown setting": {"sencache": {"epsilon": 0.1}},
        "a setting of another method": {"teacache": {"max_reuses": 3}},
        "the profile itself": {"sencache": {"profile": "x"}},
        "a cap of a million": {"sencache": {"max_reuses": 1_000_000}},
        "a negative tolerance": {"sencache": {"tolerance": -1.0}},
        "a text for a number": {"magcache": {"threshold": "high"}},
        "an unknown target": {"sencache": {"target": "noise"}},
        "an unknown forecast": {"control": {"forecast": "cubic"}},
        "a retention above one": {"magcache": {"retention": 1.5}},
        "steps beyond the run": {"fixed": {"steps": [0, 60]}},
        "no interval": {"fixed": {"interval": 0}},
    }.items():
        yield (f"a preset of {name}", edited("presets", {"slow": preset}), "profile.preset")
    parts = ("sensitivity", "magcache", "teacache", "forecast")
    empty = whole() | dict.fromkeys(parts) | {"presets": {}}
    yield ("nothing for any method", encoded(empty), "profile.empty")
    yield ("nine presets", edited("presets", {f"p{k}": {} for k in range(9)}), "profile.wrong-length")


GROUPS = (numbers, keys, lists, timesteps, grams, deep, encodings, syntax, names, greedy, presets)
CASES = {f"{group.__name__}: {name}": (*case,) for group in GROUPS for name, *case in group()}
