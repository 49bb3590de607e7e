// Arithmetic: the table of operations by name. An operation is a function of the operands of one lane; what files its
// operands are in follows from its types (bool: a predicate). Names that PTX distinguishes and the numbers do not share
// a row.
#include <bit>
#include <cfenv>
#include <cmath>
#include <unordered_map>
#include <limits>
#include <utility>

#include "warp.h"

namespace {

using f16 = _Float16;

// ---- operands of one lane ----
template <class T> T read(const Warp& w, u32 r, int lane) {
    if constexpr (std::is_same_v<T, bool>) return w.predicates[r] >> lane & 1;
    else if constexpr (sizeof(T) == 8) return std::bit_cast<T>(w.longs[r][lane]);
    else if constexpr (sizeof(T) == 4) return std::bit_cast<T>(w.words[r][lane]);
    else return (T)w.words[r][lane];
}
template <class T> auto bits(T value) {
    if constexpr (std::is_same_v<T, bool>) return (u32)value;
    else if constexpr (sizeof(T) == 8) return std::bit_cast<u64>(value);
    else if constexpr (sizeof(T) == 4) return std::bit_cast<u32>(value);
    else return (u32)(u16)value;
}
template <class T> constexpr char letter = std::is_same_v<T, bool> ? 'p' : sizeof(T) == 8 ? 'l' : 'w';

// All lanes compute; those of the mask keep what they get.
template <auto f, class R, class... A> struct Lanes {
    template <size_t... I> static void compute(Warp& w, const Instruction& i, Mask mask, std::index_sequence<I...>) {
        decltype(bits(R())) result[LANES];
        for (int lane = 0; lane < LANES; lane++) result[lane] = bits(f(read<A>(w, i.from[I], lane)...));
        if constexpr (std::is_same_v<R, bool>) {
            Mask set = 0;
            for (int lane = 0; lane < LANES; lane++) set |= result[lane] << lane;
            w.predicates[i.to[0]] = (w.predicates[i.to[0]] & ~mask) | (set & mask);
        } else {
            auto* to = [&] {
                if constexpr (sizeof(R) == 8) return w.longs[i.to[0]];
                else return w.words[i.to[0]];
            }();
            for (int lane = 0; lane < LANES; lane++) to[lane] = mask >> lane & 1 ? result[lane] : to[lane];
        }
    }
    static void run(Warp& w, const Instruction& i, Mask mask) { compute(w, i, mask, std::index_sequence_for<A...>()); }
};
template <auto f, class R, class... A> Operation typed(R (*)(A...)) {
    return {Lanes<f, R, A...>::run, std::string(1, letter<R>) + "=" + std::string{letter<A>...}};
}
// The operation that `f` computes for a lane.
template <auto f> Operation op() { return typed<f>(+f); }

// Of whole masks.
template <auto f> void on_masks(Warp& w, const Instruction& i, Mask mask) {
    const Mask set = f(w.predicates[i.from[0]], w.predicates[i.from[1]]);
    w.predicates[i.to[0]] = (w.predicates[i.to[0]] & ~mask) | (set & mask);
}

// Sums of 32 bits with a carry in or out: bit 32 of what f(a, b, c, carry) gives. Two operands, or three.
template <auto f, bool IN, bool OUT, int OPERANDS> Operation carried() {
    const Run run = [](Warp& w, const Instruction& i, Mask mask) {
        each_lane(mask, [&](int lane) {
            const u64 carry = IN ? w.carry >> lane & 1 : 0;
            const u64 c = OPERANDS == 3 ? w.words[i.from[2]][lane] : 0;
            const u64 sum = f((u64)w.words[i.from[0]][lane], (u64)w.words[i.from[1]][lane], c, carry);
            w.words[i.to[0]][lane] = (u32)sum;
            if (OUT) w.carry = (w.carry & ~(1u << lane)) | (u32)(sum >> 32 & 1) << lane;
        });
    };
    return {run, OPERANDS == 3 ? "w=www" : "w=ww"};
}

// With the processor rounding down. Called through a pointer, so that nothing moves out of the two switches.
void fma_down(Warp& w, const Instruction& i, Mask mask) {
    static const Run volatile fma = Lanes<[](float a, float b, float c) { return __builtin_fmaf(a, b, c); }, float, float, float, float>::run;
    fesetround(FE_DOWNWARD);
    fma(w, i, mask);
    fesetround(FE_TONEAREST);
}

// ---- values ----
float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.f, x) : x; }
template <class T> T least(T a, T b) {
    if (a != a) return b;
    if (b != b) return a;
    return a < b || (a == b && std::signbit(a)) ? a : b;
}
template <class T> T greatest(T a, T b) {
    if (a != a) return b;
    if (b != b) return a;
    return a > b || (a == b && !std::signbit(a)) ? a : b;
}
u32 to_bf16(float x) {
    const u32 b = std::bit_cast<u32>(x);
    return (b & 0x7fffffff) > 0x7f800000 ? 0x7fff : (b + 0x7fff + (b >> 16 & 1)) >> 16;
}
u32 to_f16(float x) { return x != x ? 0x7fff : std::bit_cast<u16>((f16)x); }
// To a whole number, NaN to 0, what is too large to the limit.
template <class R> R saturated(double x) {
    if (x != x) return 0;
    if (x <= (double)std::numeric_limits<R>::min()) return std::numeric_limits<R>::min();
    if (x >= (double)std::numeric_limits<R>::max()) return std::numeric_limits<R>::max();
    return (R)x;
}
template <class T> T shifted_left(T a, u32 b) { return b >= 8 * sizeof(T) ? T(0) : T(a << b); }
template <class T> T shifted_right(T a, u32 b) { return b >= 8 * sizeof(T) ? T(a < 0 ? -1 : 0) : T(a >> b); }
// What division by zero gives: all ones, and the number itself.
template <class T, class Wide> T quotient(T a, T b) { return b ? (T)((Wide)a / (Wide)b) : T(-1); }
template <class T, class Wide> T remainder_of(T a, T b) { return b ? (T)((Wide)a % (Wide)b) : a; }
u32 inserted(u32 a, u32 b, u32 position, u32 length) {
    position &= 255, length &= 255;
    const u64 ones = length >= 32 ? 0xffffffffu : (1ull << length) - 1;
    const u32 mask = position > 31 ? 0 : (u32)(ones << position);
    return (b & ~mask) | (position > 31 ? 0 : (u32)((u64)a << position) & mask);
}

using Table = std::unordered_map<std::string, Operation>;

// Every comparison of a type: `setp.lt.f32`. Those that end in u are true for NaN, the others false.
template <class T> void comparisons(Table& t, const std::string& type) {
    t["setp.eq." + type] = op<[](T a, T b) { return a == b; }>();
    t["setp.ne." + type] = op<[](T a, T b) { return a == a && b == b && a != b; }>();
    t["setp.lt." + type] = op<[](T a, T b) { return a < b; }>();
    t["setp.le." + type] = op<[](T a, T b) { return a <= b; }>();
    t["setp.gt." + type] = op<[](T a, T b) { return (a > b); }>();
    t["setp.ge." + type] = op<[](T a, T b) { return a >= b; }>();
    if (type[0] != 'f') return;
    t["setp.equ." + type] = op<[](T a, T b) { return !(a < b || (a > b)); }>();
    t["setp.neu." + type] = op<[](T a, T b) { return !(a == b); }>();
    t["setp.ltu." + type] = op<[](T a, T b) { return !(a >= b); }>();
    t["setp.leu." + type] = op<[](T a, T b) { return !((a > b)); }>();
    t["setp.gtu." + type] = op<[](T a, T b) { return !(a <= b); }>();
    t["setp.geu." + type] = op<[](T a, T b) { return !(a < b); }>();
    t["setp.num." + type] = op<[](T a, T b) { return a == a && b == b; }>();
    t["setp.nan." + type] = op<[](T a, T b) { return a != a || b != b; }>();
}

// Sums, products and the like of whole numbers; `Wide` holds every one of their products.
template <class T, class Wide> void whole_numbers(Table& t, const std::string& type) {
    using U = std::make_unsigned_t<T>;
    t["add." + type] = op<[](T a, T b) { return T(U(a) + U(b)); }>();
    t["sub." + type] = op<[](T a, T b) { return T(U(a) - U(b)); }>();
    t["mul.lo." + type] = op<[](T a, T b) { return T(std::make_unsigned_t<Wide>(a) * std::make_unsigned_t<Wide>(b)); }>();
    t["mad.lo." + type] = op<[](T a, T b, T c) { return T(std::make_unsigned_t<Wide>(a) * std::make_unsigned_t<Wide>(b) + U(c)); }>();
    t["mul.hi." + type] = op<[](T a, T b) { return T((Wide)a * (Wide)b >> 8 * sizeof(T)); }>();
    t["div." + type] = op<[](T a, T b) { return quotient<T, Wide>(a, b); }>();
    t["rem." + type] = op<[](T a, T b) { return remainder_of<T, Wide>(a, b); }>();
    t["min." + type] = op<[](T a, T b) { return a < b ? a : b; }>();
    t["max." + type] = op<[](T a, T b) { return (a > b) ? a : b; }>();
    t["neg." + type] = op<[](T a) { return T(U(0) - U(a)); }>();
    t["abs." + type] = op<[](T a) { return a < 0 ? T(U(0) - U(a)) : a; }>();
    t["shr." + type] = op<[](T a, u32 b) { return shifted_right<T>(a, b); }>();
    comparisons<T>(t, type);
}

// What only knows bits, of the unsigned type U: also what is done to whole registers.
template <class U> void patterns(Table& t, const std::string& bytes) {
    t["and.b" + bytes] = op<[](U a, U b) { return U(a & b); }>();
    t["or.b" + bytes] = op<[](U a, U b) { return U(a | b); }>();
    t["xor.b" + bytes] = op<[](U a, U b) { return U(a ^ b); }>();
    t["not.b" + bytes] = op<[](U a) { return U(~a); }>();
    t["shl.b" + bytes] = op<[](U a, u32 b) { return shifted_left<U>(a, b); }>();
    t["shr.b" + bytes] = op<[](U a, u32 b) { return shifted_right<U>(a, b); }>();
    t["setp.eq.b" + bytes] = op<[](U a, U b) { return a == b; }>();
    t["setp.ne.b" + bytes] = op<[](U a, U b) { return a != b; }>();
    for (const char* type : {"b", "u", "s", "f"}) {
        t[std::string("mov.") + type + bytes] = op<[](U a) { return a; }>();
        t[std::string("selp.") + type + bytes] = op<[](U a, U b, bool c) { return c ? a : b; }>();
    }
}

template <class T> void floats(Table& t, const std::string& type) {
    for (const char* rounding : {".", ".rn."}) {
        t["add" + (rounding + type)] = op<[](T a, T b) { return a + b; }>();
        t["sub" + (rounding + type)] = op<[](T a, T b) { return a - b; }>();
        t["mul" + (rounding + type)] = op<[](T a, T b) { return a * b; }>();
    }
    t["fma.rn." + type] = op<[](T a, T b, T c) { return std::fma(a, b, c); }>();
    t["div.rn." + type] = op<[](T a, T b) { return a / b; }>();
    t["rcp.rn." + type] = op<[](T a) { return T(1) / a; }>();
    t["sqrt.rn." + type] = op<[](T a) { return std::sqrt(a); }>();
    t["min." + type] = op<[](T a, T b) { return least(a, b); }>();
    t["max." + type] = op<[](T a, T b) { return greatest(a, b); }>();
    t["neg." + type] = op<[](T a) { return -a; }>();
    t["abs." + type] = op<[](T a) { return std::fabs(a); }>();
    // PTX: the sign of the first operand on the second.
    t["copysign." + type] = op<[](T a, T b) { return std::copysign(b, a); }>();
    comparisons<T>(t, type);
}

template <class R, class A> void conversion(Table& t, const std::string& to, const std::string& from) {
    // A register that is wider than the type holds it with its sign extended.
    t["cvt." + to + "." + from] = op<[](A a) { return (R)a; }>();
    if constexpr (sizeof(A) < 8) t["cvt." + to + "." + from + " of long"] = op<[](u64 a) { return (R)(A)a; }>();
}
template <class A> void conversions(Table& t, const std::string& from) {
    conversion<u16, A>(t, "u16", from);
    conversion<i16, A>(t, "s16", from);
    conversion<u32, A>(t, "u32", from);
    conversion<i32, A>(t, "s32", from);
    conversion<u64, A>(t, "u64", from);
    conversion<i64, A>(t, "s64", from);
    t["cvt.rn.f32." + from] = op<[](A a) { return (float)a; }>();
    t["cvt.rn.f64." + from] = op<[](A a) { return (double)a; }>();
    const std::string& type = from;
    t["cvt.rni." + type + ".f32"] = op<[](float a) { return saturated<A>(std::nearbyint((double)a)); }>();
    t["cvt.rzi." + type + ".f32"] = op<[](float a) { return saturated<A>(std::trunc((double)a)); }>();
    t["cvt.rmi." + type + ".f32"] = op<[](float a) { return saturated<A>(std::floor((double)a)); }>();
    t["cvt.rni." + type + ".f64"] = op<[](double a) { return saturated<A>(std::nearbyint(a)); }>();
    t["cvt.rzi." + type + ".f64"] = op<[](double a) { return saturated<A>(std::trunc(a)); }>();
}

Table make() {
    Table t;
    whole_numbers<u16, u64>(t, "u16");
    whole_numbers<i16, i64>(t, "s16");
    whole_numbers<u32, u64>(t, "u32");
    whole_numbers<i32, i64>(t, "s32");
    whole_numbers<u64, unsigned __int128>(t, "u64");
    whole_numbers<i64, __int128>(t, "s64");
    patterns<u16>(t, "16");
    patterns<u32>(t, "32");
    patterns<u64>(t, "64");
    floats<float>(t, "f32");
    floats<double>(t, "f64");
    conversions<u16>(t, "u16");
    conversions<i16>(t, "s16");
    conversions<u32>(t, "u32");
    conversions<i32>(t, "s32");
    conversions<u64>(t, "u64");
    conversions<i64>(t, "s64");
    for (const char* space : {"global", "local", "shared", "param"}) {
        t[std::string("cvta.") + space + ".u64"] = t["mov.b64"];
        t[std::string("cvta.to.") + space + ".u64"] = t["mov.b64"];
    }

    t["mul.wide.u16"] = op<[](u16 a, u16 b) { return (u32)a * b; }>();
    t["mul.wide.u32"] = op<[](u32 a, u32 b) { return (u64)a * b; }>();
    t["mul.wide.s32"] = op<[](i32 a, i32 b) { return (i64)a * b; }>();
    t["clz.b64"] = op<[](u64 a) { return (u32)std::countl_zero(a); }>();
    t["bfi.b32"] = op<[](u32 a, u32 b, u32 c, u32 d) { return inserted(a, b, c, d); }>();

    t["fma.rm.f32"] = {fma_down, "w=www"};
    t["rcp.approx.ftz.f32"] = op<[](float a) { return flush(1.f / flush(a)); }>();
    // Of the upper half of a double alone.
    t["rcp.approx.ftz.f64"] = op<[](u64 a) {
        const double r = 1.0 / std::bit_cast<double>(a & 0xffffffff00000000u);
        return std::bit_cast<u64>(std::fabs(r) < 0x1p-1022 ? std::copysign(0.0, r) : r) & 0xffffffff00000000u;
    }>();
    t["rsqrt.approx.f32"] = op<[](float a) { return (float)(1.0 / std::sqrt((double)a)); }>();
    t["ex2.approx.f32"] = op<[](float a) { return exp2f(a); }>();
    t["ex2.approx.ftz.f32"] = op<[](float a) { return flush(exp2f(flush(a))); }>();

    t["cvt.f32.f16"] = op<[](u16 a) { return (float)std::bit_cast<f16>(a); }>();
    t["cvt.rn.bf16.f32"] = op<[](float a) { return to_bf16(a); }>();
    t["cvt.rn.f16.f32"] = op<[](float a) { return to_f16(a); }>();
    t["cvt.rn.bf16x2.f32"] = op<[](float a, float b) { return to_bf16(a) << 16 | to_bf16(b); }>();
    t["cvt.rn.f16x2.f32"] = op<[](float a, float b) { return to_f16(a) << 16 | to_f16(b); }>();
    t["cvt.f64.f32"] = op<[](float a) { return (double)a; }>();
    t["cvt.rn.f32.f64"] = op<[](double a) { return (float)a; }>();
    t["cvt.rni.f32.f32"] = op<[](float a) { return std::nearbyint(a); }>();
    t["cvt.rzi.f32.f32"] = op<[](float a) { return std::trunc(a); }>();
    t["cvt.sat.f32.f32"] = op<[](float a) { return a <= 0 || a != a ? 0.f : a < 1 ? a : 1.f; }>();

    t["add.cc.u32"] = carried<[](u64 a, u64 b, u64, u64) { return a + b; }, false, true, 2>();
    t["addc.cc.u32"] = carried<[](u64 a, u64 b, u64, u64 c) { return a + b + c; }, true, true, 2>();
    t["addc.u32"] = carried<[](u64 a, u64 b, u64, u64 c) { return a + b + c; }, true, false, 2>();
    t["sub.cc.u32"] = carried<[](u64 a, u64 b, u64, u64) { return a - b; }, false, true, 2>();
    t["subc.cc.u32"] = carried<[](u64 a, u64 b, u64, u64 c) { return a - b - c; }, true, true, 2>();
    t["subc.u32"] = carried<[](u64 a, u64 b, u64, u64 c) { return a - b - c; }, true, false, 2>();
    constexpr auto low = [](u64 a, u64 b, u64 c, u64 carry) { return (a * b & 0xffffffffu) + c + carry; };
    constexpr auto high = [](u64 a, u64 b, u64 c, u64 carry) { return (a * b >> 32) + c + carry; };
    t["mad.lo.cc.u32"] = carried<low, false, true, 3>();
    t["madc.lo.cc.u32"] = carried<low, true, true, 3>();
    t["madc.hi.cc.u32"] = carried<high, true, true, 3>();
    t["madc.hi.u32"] = carried<high, true, false, 3>();

    t["and.pred"] = {on_masks<[](Mask a, Mask b) { return a & b; }>, "p=pp"};
    t["or.pred"] = {on_masks<[](Mask a, Mask b) { return a | b; }>, "p=pp"};
    t["xor.pred"] = {on_masks<[](Mask a, Mask b) { return a ^ b; }>, "p=pp"};
    t["not.pred"] = op<[](bool a) { return !a; }>();
    t["mov.pred"] = op<[](bool a) { return a; }>();
    // For what is no register of its own: a predicate from a number, registers from two halves and to one of them.
    t["predicate of number"] = op<[](u32 a) { return a != 0; }>();
    t["b32 of halves"] = op<[](u32 a, u32 b) { return (a & 0xffff) | b << 16; }>();
    t["b64 of halves"] = op<[](u32 a, u32 b) { return a | (u64)b << 32; }>();
    t["half 0 of b32"] = op<[](u32 a) { return a & 0xffff; }>();
    t["half 1 of b32"] = op<[](u32 a) { return (a >> 16); }>();
    t["half 0 of b64"] = op<[](u64 a) { return (u32)a; }>();
    t["half 1 of b64"] = op<[](u64 a) { return (u32)(a >> 32); }>();
    return t;
}

}  // namespace

const Operation* operation(const std::string& opcode) {
    static const Table table = make();
    const auto found = table.find(opcode);
    return found == table.end() ? nullptr : &found->second;
}
