#!/usr/bin/env python3
"""The emulator's opcodes against integers of any size: python benches/analysis/test_emulator.py"""

import random
import struct
import unittest

import numpy as np

import machine
import movement
from operands import LANES, Unknown
from warp import Warp

WORDS = [0, 1, 2, 31, 32, 33, 255, 256, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFE, 0xFFFFFFFF, 0x12345678]
M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def signed(x, bits=32):
    return x - (1 << bits) if x >> bits - 1 else x


def warp_of(code, parameters=b"", block=(0, 0, 0), grid=(1, 1, 1)):
    lines = [".text.test:"]
    for i, line in enumerate([*code.strip().splitlines(), "EXIT"]):
        label, _, text = line.strip().rpartition(": ")
        lines += [f"{label}:"] if label else []
        lines.append(f"        /*{16 * i:04x}*/                   {text} ;")
    return Warp(machine.kernels("\n".join(lines))["test"], "90a", parameters, block, grid, 32, 0)


def run(code, registers={}, predicates={}, **more):
    """Runs code on given registers (of all lanes, or a list of each lane's) and gives the warp."""
    warp = warp_of(code, **more)
    for n, value in registers.items():
        warp.r[n] = np.array(value, np.uint64).astype(np.uint32)
    for n, value in predicates.items():
        warp.p[n] = value
    return warp.run()


def lanes(seed=0):
    """A word for each lane: the ends of the range, and others."""
    choose = random.Random(seed)
    return [choose.choice(WORDS) if choose.random() < 0.6 else choose.getrandbits(32) for _ in range(LANES)]


class Opcodes(unittest.TestCase):
    def each(self, code, expected, inputs=3, seed=0, out=0, **more):
        """Compares register `out` with expected(*words) for registers 1 to `inputs`."""
        for round_ in range(8):
            values = [lanes(seed + 100 * round_ + i) for i in range(inputs)]
            warp = run(code, {i + 1: value for i, value in enumerate(values)}, **more)
            for lane in range(LANES):
                words = [value[lane] for value in values]
                self.assertEqual(int(warp.r[out][lane]), expected(*words) & M32, f"{code}: {[hex(x) for x in words]}")

    def wide(self, code, expected, inputs, **more):
        self.each(code, lambda *words: expected(*words) & M32, inputs, out=10, **more)
        self.each(code, lambda *words: expected(*words) >> 32 & M32, inputs, out=11, **more)

    def test_sums(self):
        self.each("IADD3 R0, R1, -R2, R3", lambda x, y, z: x - y + z)
        self.each("IADD3 R0, R1, 0x7, RZ", lambda x: x + 7, 1)
        self.each("VIADD R0, R1, 0xffffffff", lambda x: x - 1, 1)
        # Two words as one number: the carry of the lower sum enters the upper.
        pair = "IADD3 R10, P0, R1, R3, RZ\nIADD3.X R11, R2, R4, RZ, P0, !PT"
        self.wide(pair, lambda x, x1, y, y1: (x | x1 << 32) + (y | y1 << 32), 4)
        less = "IADD3 R10, P0, R1, -R3, RZ\nIADD3.X R11, R2, ~R4, RZ, P0, !PT"
        self.wide(less, lambda x, x1, y, y1: (x | x1 << 32) - (y | y1 << 32) & M64, 4)
        # Three words may carry twice.
        twice = "IADD3 R10, P0, P1, R1, R2, R3\nIADD3.X R11, RZ, RZ, RZ, P0, P1"
        self.wide(twice, lambda x, y, z: x + y + z, 3)

    def test_products(self):
        self.each("IMAD R0, R1, R2, R3", lambda x, y, z: x * y + z)
        self.each("IMAD R0, R1, R2, -R3", lambda x, y, z: x * y - z)
        self.each("IMAD.MOV.U32 R0, RZ, RZ, R1", lambda x: x, 1)
        self.wide("IMAD.WIDE.U32 R10, R1, R2, R4", lambda x, y, _, z, z1: x * y + (z | z1 << 32), 5)
        self.wide("IMAD.WIDE R10, R1, R2, R4", lambda x, y, _, z, z1: signed(x) * signed(y) + (z | z1 << 32), 5)
        # HI's addend has 64 bits too.
        self.each("IMAD.HI.U32 R0, R1, R2, R4", lambda x, y, _, z, z1: x * y + (z | z1 << 32) >> 32, 5)
        self.each("IMAD.HI R0, R1, R2, R4", lambda x, y, _, z, z1: signed(x) * signed(y) + (z | z1 << 32) >> 32, 5)

    def test_effective_addresses(self):
        self.each("LEA R0, R1, R2, 0x3", lambda x, y: (x << 3) + y, 2)
        whole = "LEA R10, P0, R1, R3, 0x4\nLEA.HI.X R11, R1, R4, R2, 0x4, P0"
        self.wide(whole, lambda x, x1, y, y1: ((x | x1 << 32) << 4) + (y | y1 << 32) & M64, 4)
        extended = "LEA R10, P0, R1, R3, 0x4\nLEA.HI.X.SX32 R11, R1, R4, 0x4, P0"
        self.wide(extended, lambda x, _, y, y1: (signed(x) << 4) + (y | y1 << 32) & M64, 4)

    def test_shifts(self):
        self.each("SHF.L.U32 R0, R1, R2, RZ", lambda x, n: x << n if n < 32 else 0, 2)
        self.each("SHF.R.U32.HI R0, RZ, R2, R1", lambda x, n: x >> n if n < 32 else 0, 2)
        self.each("SHF.R.S32.HI R0, RZ, R2, R1", lambda x, n: signed(x) >> min(n, 31), 2)
        self.each("SHF.L.U64.HI R0, R1, 0x5, R2", lambda x, y: (x | y << 32) << 5 >> 32, 2)
        self.each("SHF.R.U64 R0, R1, 0x5, R2", lambda x, y: (x | y << 32) >> 5, 2)

    def test_bits(self):
        for lut in (0xC0, 0xFC, 0x3C, 0x96, 0xEA, 0x1B):
            bit = lambda x, y, z, i: lut >> ((x >> i & 1) << 2 | (y >> i & 1) << 1 | z >> i & 1) & 1
            self.each(f"LOP3.LUT R0, R1, R2, R3, {lut:#x}, !PT",
                      lambda x, y, z: sum(bit(x, y, z, i) << i for i in range(32)))
        # A predicate among its inputs makes its predicate true whatever the result is.
        zero = "LOP3.LUT P0, RZ, R1, RZ, RZ, 0xc0, {0}\nSEL R0, 0x1, RZ, P0"
        self.assertEqual(int(run(zero.format("!PT"), {1: 5}).r[0][0]), 0)
        self.assertEqual(int(run(zero.format("P1"), {1: 5}, {1: True}).r[0][0]), 1)
        select = "PLOP3.LUT P0, PT, P1, P2, P3, 0x80, 0x0\nSEL R0, 0x1, RZ, P0"
        for bits in range(8):
            warp = run(select, predicates={1: bool(bits & 4), 2: bool(bits & 2), 3: bool(bits & 1)})
            self.assertEqual(int(warp.r[0][0]), int(bits == 7))
        bytes_of = lambda x, y: [(x | y << 32) >> 8 * i & 255 for i in range(8)]
        self.each("PRMT R0, R1, 0x7610, R2",
                  lambda x, y: sum(bytes_of(x, y)[n] << 8 * i for i, n in enumerate([0, 1, 6, 7])), 2)
        self.each("PRMT R0, R1, 0x9910, R2",
                  lambda x, y: x & 0xFFFF | (0xFFFF if x & 0x8000 else 0) << 16, 2)

    def test_comparisons(self):
        relations = {"LT": lambda x, y: x < y, "LE": lambda x, y: x <= y, "GT": lambda x, y: x > y,
                     "GE": lambda x, y: x >= y, "EQ": lambda x, y: x == y, "NE": lambda x, y: x != y}
        for name, holds in relations.items():
            self.each(f"ISETP.{name}.U32.AND P0, PT, R1, R2, PT\nSEL R0, 0x1, RZ, P0", lambda x, y: holds(x, y), 2)
            self.each(f"ISETP.{name}.AND P0, PT, R1, R2, PT\nSEL R0, 0x1, RZ, P0",
                      lambda x, y: holds(signed(x), signed(y)), 2)
            whole = f"ISETP.{name}.U32.AND P1, PT, R1, R3, PT\nISETP.{name}.AND.EX P0, PT, R2, R4, PT, P1\nSEL R0, 0x1, RZ, P0"
            self.each(whole, lambda x, x1, y, y1: holds(signed(x | x1 << 32, 64), signed(y | y1 << 32, 64)), 4)
        both = "ISETP.GE.OR P0, P1, R1, R2, P2\nSEL R0, 0x1, RZ, P1"
        self.each(both, lambda x, y: signed(x) < signed(y), 2)
        self.each("VIMNMX R0, R1, R2, PT", lambda x, y: min(signed(x), signed(y)), 2)
        self.each("VIMNMX.U32 R0, R1, R2, !PT", lambda x, y: max(x, y), 2)
        self.each("VIADDMNMX R0, R1, 0x5, R2, PT", lambda x, y: min(signed(x + 5 & M32), signed(y)), 2)

    def test_uniform_instructions_do_nothing_where_their_predicate_is_false(self):
        code = "UMOV UR4, 0x7\n@!UPT UIADD3 UR4, UR4, 0x1, URZ\nMOV R0, UR4"
        self.assertEqual(int(run(code).r[0][0]), 7)
        code = "ULDC.64 UR4, c[0x0][0x210]\nUIMAD.WIDE UR6, UR4, 0x3, URZ\nMOV R0, UR6\nMOV R1, UR7"
        warp = run(code, parameters=struct.pack("<iI", -5, 9))
        self.assertEqual(int(warp.r[0][0]) | int(warp.r[1][0]) << 32, -15 & M64)

    def test_a_division_by_reciprocal(self):
        """As nvcc divides unsigned integers: I2F rounds up, so that the first quotient is never too large."""
        code = """
            I2F.U32.RP R5, R2
            MUFU.RCP R5, R5
            IADD3 R6, R5, 0xffffffe, RZ
            F2I.FTZ.U32.TRUNC.NTZ R7, R6
            IADD3 R8, RZ, -R2, RZ
            MOV R6, RZ
            IMAD R9, R8, R7, RZ
            IMAD.HI.U32 R7, R7, R9, R6
            IMAD.HI.U32 R0, R7, R1, RZ
            IMAD R9, R8, R0, R1
            ISETP.GE.U32.AND P0, PT, R9, R2, PT
            @P0 IADD3 R9, R9, -R2, RZ
            @P0 IADD3 R0, R0, 0x1, RZ
            ISETP.GE.U32.AND P0, PT, R9, R2, PT
            @P0 IADD3 R0, R0, 0x1, RZ
        """
        for divisor in (1, 2, 3, 7, 320, 4096, 65535, 1000003):
            numerators = lanes(divisor)
            warp = run(code, {1: numerators, 2: divisor})
            self.assertEqual([int(x) for x in warp.r[0]], [x // divisor for x in numerators])

    def test_lanes_diverge_and_meet(self):
        code = """
            S2R R1, SR_TID.X
            ISETP.GE.AND P0, PT, R1, 0x8, PT
            @P0 BRA `(.L_far)
            MOV R2, 0x1
            BRA `(.L_end)
            .L_far: MOV R2, 0x2
            .L_end: IADD3 R0, R2, R1, RZ
        """
        warp = run(code)
        self.assertEqual([int(x) for x in warp.r[0]], [i + (1 if i < 8 else 2) for i in range(LANES)])
        # Each side is issued once, what both share once.
        self.assertEqual(warp.counts, [1, 1, 1, 1, 1, 1, 1, 1])

    def test_a_loop_is_counted(self):
        code = """
            MOV R1, RZ
            .L_top: IADD3 R1, R1, 0x1, RZ
            ISETP.GE.AND P0, PT, R1, 0x5, PT
            @!P0 BRA `(.L_top)
        """
        self.assertEqual(run(code).counts, [1, 5, 5, 5, 1])

    def test_what_is_not_known_is_told_when_it_is_reached(self):
        with self.assertRaisesRegex(Unknown, "FROB R1"):
            run("FROB R1, R2")
        self.assertEqual(run("BRA `(.L_end)\nFROB R1, R2\n.L_end: NOP").counts, [1, 0, 1, 1])


class Memory(unittest.TestCase):
    def access(self, code, addresses):
        return run(code, {1: addresses})

    def test_wavefronts_of_shared_memory(self):
        served = lambda code, addresses: next(iter(self.access(code, addresses).shared.values()))[1]
        line = range(LANES)
        self.assertEqual(served("LDS R2, [R1]", [4 * i for i in line]), 1)
        self.assertEqual(served("LDS R2, [R1]", [128 * i for i in line]), 32)
        self.assertEqual(served("LDS R2, [R1+0x80]", [0] * LANES), 1)
        # 16 bytes a lane: four groups of eight lanes.
        self.assertEqual(served("LDSM.16.M88.4 R4, [R1]", [16 * i for i in line]), 4)
        self.assertEqual(served("LDSM.16.M88.4 R4, [R1]", [64 * i for i in line]), 16)
        swizzled = [64 * i + 16 * (i >> 1 & 3) for i in line]
        self.assertEqual(served("LDSM.16.M88.4 R4, [R1]", swizzled), 4)
        self.assertEqual(served("STS.64 [R1], R2", [8 * i for i in line]), 2)

    def test_sectors_of_global_memory(self):
        served = lambda code, addresses: next(iter(self.access(code, addresses).whole.values()))[1]
        line = range(LANES)
        self.assertEqual(served("LDG.E.128 R4, desc[UR4][R1.64]", [16 * i for i in line]), 16)
        self.assertEqual(served("LDG.E R4, desc[UR4][R1.64]", [128 * i for i in line]), 32)
        self.assertEqual(served("STG.E.U16 desc[UR4][R1.64], R4", [2 * i for i in line]), 2)
        # A copy whose predicate is false reads nothing.
        copy = "LDGSTS.E.BYPASS.128.ZFILL [R3], desc[UR4][R1.64], {0}"
        self.assertEqual(self.access(copy.format("P0"), [0] * LANES).whole["LDGSTS", 16], [1, 0])
        self.assertEqual(self.access(copy.format("!P0"), [0] * LANES).whole["LDGSTS", 16], [1, 1])

    def test_patterns_are_told_apart(self):
        """Counts of a pattern are remembered: another one must not find them."""
        warp = run("LDS R2, [R1]\nLDS R2, [R3]", {1: [4 * i for i in range(LANES)], 3: [8 * i for i in range(LANES)]})
        self.assertEqual(warp.shared["LDS", 4], [2, 1 + 2])
        self.assertEqual(movement.wavefronts([[0, 128, 256]], 4), 3)


if __name__ == "__main__":
    unittest.main()
