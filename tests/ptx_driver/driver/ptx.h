// What a program is once it is read. Registers of 16 and 32 bits are words, those of 64 bits longs; each has a value for
// every lane of a warp. Constants and special registers are registers that are filled in before the kernel begins.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using i16 = int16_t;
using i32 = int32_t;
using i64 = int64_t;

constexpr int LANES = 32;
// A bit for each lane.
using Mask = u32;

// What is wrong with a program or with what it does, in a sentence.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Warp;
struct Instruction;
using Run = void (*)(Warp&, const Instruction&, Mask);

// What an instruction does to the order of execution. `Warp`: all lanes of the warp do it together.
enum class Flow : u8 { Next, Branch, Exit, Barrier, Together };
// Files of registers.
enum class File : u8 { Word, Long, Predicate };

struct Instruction {
    Run run = nullptr;
    Flow flow = Flow::Next;
    // The guard: executed where the predicate is (1) or is not (-1) set; 0 without one.
    int8_t guard = 0;
    // Values that a load or store moves, and the bytes of one.
    u8 count = 1, bytes = 4;
    // ldmatrix: transposed. Loads: the sign is extended. cp.async.wait_group: see `immediate`.
    bool flag = false;
    u16 kind = 0;  // for the counts: an index into `kinds()`
    u32 guard_register = 0;
    u32 to[4] = {}, from[12] = {};
    u32 target = 0;  // of a branch
    u32 line = 0;
    i64 immediate = 0;  // offset of an address
    const char* text = "";
};

struct Parameter {
    std::string name;
    u32 bytes, offset;
};

// Which special register a word holds.
struct Special {
    u32 word;
    int which;  // an index into `specials()`
};

struct Kernel {
    std::string name;
    std::vector<Parameter> parameters;
    u32 parameter_bytes = 0, most_threads = 1024;
    u32 static_shared = 0, local_bytes = 0;
    std::vector<Instruction> code;
    u32 words = 0, longs = 0, predicates = 0;
    std::vector<std::pair<u32, u32>> word_constants;
    std::vector<std::pair<u32, u64>> long_constants;
    std::vector<Special> specials;
};

// `%tid.x` and so on, in the order of `Special::which`.
const std::vector<std::string>& specials();
// The names of instructions that were seen, without types: `mma`, `ld.global`.
u16 kind_of(const std::string& opcode);
std::vector<std::string>& kinds();

// ---- text ----
struct Statement {
    std::string text;  // without semicolon; `{` and `}` are statements, and so are labels, with their colon
    u32 line;
};
struct Function {
    std::string name, result;  // the parameter that it returns its result in; empty for a kernel
    std::vector<Parameter> parameters;
    u32 most_threads = 1024;
    std::vector<Statement> body;
};
struct Module {
    std::map<std::string, Function> kernels, functions;
    std::map<std::string, std::string> shared;  // declarations outside functions, by name
    std::map<std::string, std::vector<u8>> tables;  // .global and .const with their values
    std::map<std::string, std::shared_ptr<Kernel>> assembled;
};
// Throws an `Error` that names line and statement for what it does not know, as the two below.
std::unique_ptr<Module> parse(const std::string& text);
// The kernel of that name, or none.
std::shared_ptr<Kernel> assemble(Module&, const std::string& name);

// The PTX inside what cuModuleLoadData was given: a fat binary, or PTX as it is.
std::string ptx_of_image(const void* image);

// Helpers of the text.
std::string trim(const std::string&);
// At commas outside brackets.
std::vector<std::string> split(const std::string&);
std::vector<std::string> split_at(const std::string&, char);
// Bytes of `u32`, `f64`, ...; 0 for `pred`.
u32 bytes_of(const std::string& type);
// `.param .align 8 .b8 name[16]`, `.reg .f32 name` or `.global .u32 name = 1`.
struct Declared {
    std::string name;
    u32 bytes = 0, align = 0, length = 1;  // of one value, in bytes; values
    bool is_array = false;
};
Declared declared(const std::string& text);

// Which operands an operation takes: w a word, l a long, p a predicate; results before `=`.
struct Operation {
    Run run;
    std::string operands;
};
// The arithmetic operation of that name (`add.s32`), or none.
const Operation* operation(const std::string& opcode);
