"""Operands of instructions as functions of a warp: registers are rows of 32 unsigned words, uniform registers integers."""

import re
import struct

import numpy as np

# Words wrap around, and what is divided by zero is not looked at.
np.seterr(all="ignore")
LANES = 32
MASK = 0xFFFFFFFF
ALL = np.ones(LANES, bool)
U32, U64, I32, I64, F32 = np.uint32, np.uint64, np.int32, np.int64, np.float32
# Reads as zero; never written.
RZ = 255

REGISTER = re.compile(r"^R(\d+)(?:\.64|\.H0_H0)?$")
UNIFORM = re.compile(r"^UR(\d+)$")
CONSTANT = re.compile(r"^c\[0x([02])\]\[(0x[0-9a-f]+)\]$")
INTEGER = re.compile(r"^-?(0x[0-9a-f]+|\d+)$")
FLOAT = re.compile(r"^[-+]?(\d+\.?\d*(e[-+]?\d+)?|INF|QNAN)$", re.I)


class Unknown(Exception):
    """An opcode or operand that the emulator does not know."""


def negated(text):
    return text[0] == "-" and not INTEGER.match(text) and not FLOAT.match(text)


def register(text):
    """The number of a register."""
    if text.startswith("RZ"):
        return RZ
    match = re.match(r"^[-~|!]*R(\d+)", text)
    if not match:
        raise Unknown(f"operand {text}")
    return int(match[1])


def word(text):
    """A 32-bit value: a function of the warp."""
    if negated(text):
        inner = word(text[1:])
        return lambda w: U32(0) - inner(w)
    if text[0] == "~":
        inner = word(text[1:])
        return lambda w: ~inner(w)
    if match := REGISTER.match(text):
        n = int(match[1])
        return lambda w: w.r[n]
    if re.match(r"^(U?RZ|SRZ)\b", text):
        return lambda w: w.r[RZ]
    if match := UNIFORM.match(text):
        n = int(match[1])
        return lambda w: U32(w.u[n])
    if match := CONSTANT.match(text):
        bank, at = int(match[1]), int(match[2], 16)
        return lambda w: U32(w.constant(bank, at))
    if INTEGER.match(text):
        value = U32(int(text, 0) & MASK)
        return lambda w: value
    if FLOAT.match(text):
        value = U32(struct.unpack("<I", struct.pack("<f", number(text)))[0])
        return lambda w: value
    raise Unknown(f"operand {text}")


def pair(text):
    """A 64-bit value in two registers."""
    if negated(text):
        inner = pair(text[1:])
        return lambda w: U64(0) - inner(w)
    if match := REGISTER.match(text):
        n = int(match[1])
        return lambda w: w.r[n].astype(U64) | w.r[n + 1].astype(U64) << U64(32)
    if re.match(r"^U?RZ", text):
        return lambda w: w.r[RZ].astype(U64)
    if match := UNIFORM.match(text):
        n = int(match[1])
        return lambda w: U64(w.u[n] | w.u[n + 1] << 32)
    if match := CONSTANT.match(text):
        bank, at = int(match[1]), int(match[2], 16)
        return lambda w: U64(w.constant(bank, at, 8))
    if INTEGER.match(text):
        value = U64(int(text, 0) & 0xFFFFFFFFFFFFFFFF)
        return lambda w: value
    raise Unknown(f"operand {text}")


def number(text):
    """Of a float as it is printed."""
    special = {"INF": float("inf"), "QNAN": float("nan")}
    digits = text.lstrip("+-").upper()
    value = special[digits] if digits in special else float(digits)
    return -value if text[0] == "-" else value


def real(text):
    """A float."""
    if negated(text):
        inner = real(text[1:])
        return lambda w: -inner(w)
    if text[0] == "|":
        inner = real(text.strip("|"))
        return lambda w: np.abs(inner(w))
    if FLOAT.match(text) and not text.startswith("0x"):
        value = F32(number(text))
        return lambda w: value
    inner = word(text)
    return lambda w: inner(w).view(F32)


def uniform(text):
    """A uniform value, an integer below 2^32."""
    if negated(text):
        inner = uniform(text[1:])
        return lambda w: -inner(w) & MASK
    if text[0] == "~":
        inner = uniform(text[1:])
        return lambda w: ~inner(w) & MASK
    if text.startswith("URZ"):
        return lambda w: 0
    if match := UNIFORM.match(text):
        n = int(match[1])
        return lambda w: w.u[n]
    if match := CONSTANT.match(text):
        bank, at = int(match[1]), int(match[2], 16)
        return lambda w: w.constant(bank, at)
    if INTEGER.match(text):
        value = int(text, 0) & MASK
        return lambda w: value
    raise Unknown(f"operand {text}")


def uniform_register(text):
    match = UNIFORM.match(text)
    if match:
        return int(match[1])
    if text.startswith("URZ"):
        return None
    raise Unknown(f"operand {text}")


def predicate(text):
    """Of every lane."""
    negate = text[0] == "!"
    name = text.lstrip("!")
    match = re.match(r"^(U?)P(T|\d)$", name)
    if not match:
        raise Unknown(f"operand {text}")
    n = 7 if match[2] == "T" else int(match[2])
    if match[1]:
        return (lambda w: np.full(LANES, not w.up[n])) if negate else (lambda w: np.full(LANES, w.up[n]))
    return (lambda w: ~w.p[n]) if negate else (lambda w: w.p[n])


def is_predicate(text):
    return re.match(r"^!?U?P(T|\d)$", text) is not None


def address(text):
    """`desc[UR4][R8.64+0x10]` or `[R3+UR4+0x10]`."""
    inside = re.search(r"\[([^\[\]]*)\]$", text)
    if not inside:
        raise Unknown(f"address {text}")
    parts, constant = [], 0
    for sign, part in re.findall(r"([-+]?)([^-+\[\]]+)", inside[1]):
        scaled = re.match(r"^(.*)\.X(\d+)$", part)
        part, times = (scaled[1], int(scaled[2])) if scaled else (part, 1)
        if re.match(r"^(0x[0-9a-f]+|\d+)$", part):
            constant += int(part, 0) * (-1 if sign == "-" else 1)
        elif sign == "-":
            raise Unknown(f"address {text}")
        elif part.endswith(".64"):
            parts.append((pair(part[:-3]), times))
        elif not part.startswith(("RZ", "URZ")):
            parts.append((word(part.removesuffix(".U32")), times))

    def value(w):
        total = np.full(LANES, constant, I64)
        for read, times in parts:
            total = total + np.asarray(read(w)).astype(I64) * times
        return total

    return value
