// Statements to instructions of one kernel. Functions that it calls become part of it, with registers of their own at
// each call, so that no call is left.
#include <algorithm>
#include <cstring>

#include "fault.h"
#include "warp.h"

const std::vector<std::string>& specials() {
    static const std::vector<std::string> all = {
        "%tid.x",   "%tid.y",   "%tid.z",   "%ntid.x",   "%ntid.y",   "%ntid.z", "%ctaid.x",
        "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%laneid"};
    return all;
}

std::vector<std::string>& kinds() {
    // Not destroyed: the counts are written when the program ends.
    static std::vector<std::string>& all = *new std::vector<std::string>;
    return all;
}

namespace {

// What a name stands for.
struct Meaning {
    enum What { Register, Shared, Local, Table } what = Register;
    File file = File::Word;
    u32 first = 0, count = 1;  // registers
    u64 address = 0;
};
// The address of dynamic shared memory, until it is known: bits of no number that a program has.
constexpr u64 DYNAMIC = 0x7ff4d19a31c5e0b7;
using Scope = std::map<std::string, Meaning>;

bool is_number(const std::string& s) {
    const size_t at = !s.empty() && (s[0] == '-' || s[0] == '+');
    return s.size() > at && isdigit((unsigned char)s[at]);
}
// Numbers as PTX writes them: 0f and 0d are followed by the bits of a float.
u64 number(const std::string& s) {
    if (s.size() > 2 && s[0] == '0' && strchr("fFdD", s[1])) return strtoull(s.c_str() + 2, nullptr, 16);
    return s[0] == '-' ? (u64)strtoll(s.c_str(), nullptr, 0) : strtoull(s.c_str(), nullptr, 0);
}
// Of `[a+8]` or `(a)`: a+8, a.
std::string inside(const std::string& s) { return trim(s.substr(1, s.size() - 2)); }
std::vector<std::string> vector_of(const std::string& s) {
    return s[0] == '{' ? split(inside(s)) : std::vector<std::string>{s};
}

class Assembler {
   public:
    Assembler(Module& module, const Function& function, Kernel& kernel)
        : module(module), kernel(kernel) {
        kernel.name = function.name;
        kernel.parameters = function.parameters;
        kernel.most_threads = function.most_threads;
        for (const Parameter& p : function.parameters) kernel.parameter_bytes = p.offset + p.bytes;
    }

    void run(const Function& function) {
        body(function, "");
        for (const auto& [at, label] : jumps) {
            if (!labels.contains(label)) throw Error("no label `" + label + "`");
            kernel.code[at].target = labels[label];
        }
        // Dynamic shared memory lies behind the static.
        kernel.static_shared = (kernel.static_shared + 15) / 16 * 16;
        const auto known = [&](u64 value) { return value == DYNAMIC ? kernel.static_shared : value; };
        for (const auto& [value, index] : words) kernel.word_constants.push_back({index, (u32)known(value)});
        for (const auto& [value, index] : longs) kernel.long_constants.push_back({index, known(value)});
    }

   private:
    Module& module;
    Kernel& kernel;
    std::vector<Scope> scopes = std::vector<Scope>(1);
    std::map<std::string, u32> labels;
    std::vector<std::pair<u32, std::string>> jumps;
    std::map<u64, u32> words, longs;   // constants, by value
    std::map<int, u32> special_words;  // by Special::which
    std::string prefix;       // of labels: which call they are in
    std::string end_of_call;  // the label that `ret` goes to; empty in the kernel itself
    int calls = 0;
    // The instruction that is being made.
    Instruction made;

    void body(const Function& function, const std::string& call) {
        const std::string outer = prefix, outer_end = end_of_call;
        prefix = call;
        end_of_call = call.empty() ? "" : call + "end";
        for (const Statement& s : function.body) {
            try {
                statement(s);
            } catch (const std::exception& e) {
                throw Error("line " + std::to_string(s.line) + ": " + e.what() + " in `" + s.text.substr(0, 160) + "`");
            }
        }
        labels[call + "end"] = (u32)kernel.code.size();
        prefix = outer;
        end_of_call = outer_end;
    }

    void statement(const Statement& s) {
        const std::string& text = s.text;
        if (text == "{") {
            scopes.emplace_back();
        } else if (text == "}") {
            scopes.pop_back();
        } else if (text.back() == ':') {
            labels[prefix + text.substr(0, text.size() - 1)] = (u32)kernel.code.size();
        } else if (text[0] == '.') {
            if (text.rfind(".pragma", 0) != 0 && text.rfind(".loc ", 0) != 0) declare(text);
        } else {
            made = Instruction();
            made.line = s.line;
            made.text = s.text.c_str();
            instruction(text);
        }
    }

    // ---- names ----
    u32 add_registers(File file, u32 count) {
        u32& counter = file == File::Word ? kernel.words : file == File::Long ? kernel.longs : kernel.predicates;
        counter += count;
        return counter - count;
    }

    // `.reg .f32 %f<4>, %x`, `.param .b64 param0`, `.local .align 8 .b8 name[40]`, `.shared .align 4 .b8 name[128]`.
    void declare(const std::string& text) {
        const std::string what = text.substr(0, text.find_first_of(" \t"));
        const auto names = split(text);
        for (size_t i = 0; i < names.size(); i++) {
            Declared d = declared(names[0]);
            if (i) d.name = names[i];
            Meaning meaning;
            if (what == ".reg" || what == ".param") {
                // What calls pass is a register; of an array or struct, one for every 8 bytes.
                meaning.file = d.bytes == 0 ? File::Predicate : d.bytes == 8 || d.is_array ? File::Long : File::Word;
                if (d.is_array) meaning.count = (d.bytes * d.length + 7) / 8;
                if (const size_t angle = d.name.find('<'); angle != std::string::npos) {
                    meaning.count = (u32)atoi(d.name.c_str() + angle + 1);
                    d.name = d.name.substr(0, angle + 1);
                }
                meaning.first = add_registers(meaning.file, meaning.count);
            } else if (what == ".local" || what == ".shared") {
                u32& end = what == ".local" ? kernel.local_bytes : kernel.static_shared;
                meaning.what = what == ".local" ? Meaning::Local : Meaning::Shared;
                meaning.address = end = (end + d.align - 1) / d.align * d.align;
                end += d.bytes * d.length;
            } else {
                throw Error("unknown declaration");
            }
            scopes.back()[d.name] = meaning;
        }
    }

    // Where the name is declared: in the innermost scope, then outside of functions.
    const Meaning& meaning(const std::string& name, u32& index) {
        index = 0;
        size_t digits = name.size();
        while (digits > 0 && isdigit((unsigned char)name[digits - 1])) digits--;
        for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope) {
            if (const auto found = scope->find(name); found != scope->end()) return found->second;
            const auto family = scope->find(name.substr(0, digits) + "<");
            if (digits < name.size() && family != scope->end()) {
                index = (u32)atoi(name.c_str() + digits);
                if (index < family->second.count) return family->second;
            }
        }
        if (const auto found = module.shared.find(name); found != module.shared.end()) {
            if (found->second.find(".extern") != std::string::npos) return scopes[0][name] = {Meaning::Shared, File::Word, 0, 1, DYNAMIC};
            std::vector<Scope> inner(1);
            std::swap(inner, scopes);
            declare(found->second);
            std::swap(inner, scopes);
            return scopes[0][name] = inner[0][name];
        }
        if (const auto found = module.tables.find(name); found != module.tables.end()) {
            const std::vector<u8>& table = found->second;
            Memory::constants(table.data(), table.size());
            return scopes[0][name] = {Meaning::Table, File::Long, 0, 1, (u64)table.data()};
        }
        throw Error("unknown name `" + name + "`");
    }

    u32 constant(File file, u64 value) {
        if (file == File::Predicate) throw Error("a predicate that is a number");
        const auto [known, is_new] = (file == File::Word ? words : longs).try_emplace(value);
        if (is_new) known->second = add_registers(file, 1);
        return known->second;
    }

    // ---- operands ----
    u32 operand(const std::string& text, File file, bool written) {
        const auto& names = specials();
        const auto special = std::find(names.begin(), names.end(), text);
        if (is_number(text) || special != names.end()) {
            if (written) throw Error("`" + text + "` cannot be written");
            if (special == names.end()) return constant(file, number(text));
            if (file != File::Word) throw Error("`" + text + "` has 32 bits");
            const int which = (int)(special - names.begin());
            if (!special_words.contains(which)) {
                special_words[which] = add_registers(File::Word, 1);
                kernel.specials.push_back({special_words[which], which});
            }
            return special_words[which];
        }
        if (text.empty() || text[0] == '{') throw Error("unknown operand `" + text + "`");
        u32 offset;
        const Meaning& m = meaning(text, offset);
        if (m.what != Meaning::Register) {
            if (written) throw Error("`" + text + "` cannot be written");
            return constant(file, m.address);
        }
        if (m.file != file) throw Error("`" + text + "` is a register of another size than the operation takes");
        return m.first + offset;
    }
    void from(int index, const std::string& text, File file) { made.from[index] = operand(text, file, false); }
    void to(int index, const std::string& text, File file) { made.to[index] = operand(text, file, true); }
    // `[name+offset]`: what is in it.
    static std::pair<std::string, i64> parts_of(const std::string& text) {
        if (text[0] != '[') throw Error("expected an address, not `" + text + "`");
        const std::string sum = inside(text);
        const size_t plus = sum.find('+');
        return {trim(sum.substr(0, plus)), plus == std::string::npos ? 0 : strtoll(sum.c_str() + plus + 1, nullptr, 0)};
    }
    void address(int index, const std::string& text, File file) {
        const auto [name, offset] = parts_of(text);
        made.immediate = offset;
        from(index, name, file);
    }
    // Whether it is a register, of that file; special registers have a point in their name.
    bool is_of(File file, const std::string& name) {
        if (is_number(name) || name.find('.') != std::string::npos) return false;
        u32 offset;
        const Meaning& m = meaning(name, offset);
        return m.what == Meaning::Register && m.file == file;
    }
    static void expect(const std::vector<std::string>& operands, size_t count) {
        if (operands.size() != count) throw Error("expected " + std::to_string(count) + " operands");
    }
    void emit(Run run, Flow flow = Flow::Next) {
        made.run = run;
        made.flow = flow;
        kernel.code.push_back(made);
    }

    // ---- instructions ----
    void instruction(std::string text) {
        if (text[0] == '@') {
            const size_t space = text.find_first_of(" \t");
            std::string predicate = text.substr(1, space - 1);
            made.guard = predicate[0] == '!' ? -1 : 1;
            if (made.guard < 0) predicate = predicate.substr(1);
            made.guard_register = operand(predicate, File::Predicate, false);
            text = trim(text.substr(space));
        }
        const size_t space = text.find_first_of(" \t\n");
        const std::string opcode = text.substr(0, space);
        const std::vector<std::string> o = split(space == std::string::npos ? "" : text.substr(space));
        made.kind = kind_of(opcode);
        const auto begins = [&](const char* word) { return opcode.rfind(word, 0) == 0; };
        if (opcode == "ret" || opcode == "exit") {
            if (opcode == "exit" || end_of_call.empty()) return emit(nullptr, Flow::Exit);
            jumps.push_back({(u32)kernel.code.size(), end_of_call});
            return emit(nullptr, Flow::Branch);
        }
        if (opcode == "bra" || opcode == "bra.uni") {
            expect(o, 1);
            jumps.push_back({(u32)kernel.code.size(), prefix + o[0]});
            return emit(nullptr, Flow::Branch);
        }
        if (begins("call")) return call(o);
        if (opcode == "bar.sync" || opcode == "barrier.sync.aligned") {
            if (o.size() != 1 || o[0] != "0") throw Error("unknown barrier: only bar.sync 0 for the whole block");
            if (planted("barrier")) return;
            return emit(nullptr, Flow::Barrier);
        }
        if (opcode == "bar.warp.sync") {
            from(0, o.at(0), File::Word);
            return emit(warp_sync, Flow::Together);
        }
        if (begins("shfl.sync.")) return shuffle(opcode, o);
        if (begins("ldmatrix.")) return load_matrices(opcode, o);
        if (begins("mma.")) return multiply(opcode, o);
        if (begins("cp.async.")) return copy_async(opcode, o);
        if (begins("ld.") || begins("ldu.")) return load_or_store(opcode, o, true);
        if (begins("st.")) return load_or_store(opcode, o, false);
        if (opcode == "mov.b32" || opcode == "mov.b64") {
            expect(o, 2);
            // The halves are in registers of another kind than the whole, so that one does not change the other.
            const std::string whole = opcode.substr(4);
            if (o[0][0] == '{') {
                arithmetic("half 0 of " + whole, {vector_of(o[0]).at(0), o[1]});
                return arithmetic("half 1 of " + whole, {vector_of(o[0]).at(1), o[1]});
            }
            if (o[1][0] == '{') return arithmetic(whole + " of halves", {o[0], vector_of(o[1]).at(0), vector_of(o[1]).at(1)});
        }
        if (opcode == "mov.pred" && is_number(o.at(1))) return arithmetic("predicate of number", o);
        arithmetic(opcode, o);
    }

    void arithmetic(const std::string& opcode, const std::vector<std::string>& o) {
        const Operation* known = operation(opcode);
        // Conversions between whole numbers take registers that are wider than their types.
        if (known && opcode.rfind("cvt.", 0) == 0 && o.size() == 2 && is_of(File::Long, o[1]) && known->operands.back() == 'w')
            known = operation(opcode + " of long");
        if (!known) throw Error("unknown instruction `" + opcode + "`");
        const size_t results = known->operands.find('=');
        expect(o, known->operands.size() - 1);
        for (size_t i = 0; i < o.size(); i++) {
            const char letter = known->operands[i < results ? i : i + 1];
            const File file = letter == 'w' ? File::Word : letter == 'l' ? File::Long : File::Predicate;
            if (i < results) to((int)i, o[i], file);
            else from((int)(i - results), o[i], file);
        }
        emit(known->run);
    }

    // Parameters and the result are registers of the caller, under the names that they have in the function.
    void call(const std::vector<std::string>& o) {
        if (made.guard) throw Error("a call with a guard");
        const bool has_result = o.at(0)[0] == '(';
        const auto found = module.functions.find(o.at(has_result));
        if (found == module.functions.end()) throw Error("unknown function `" + o.at(has_result) + "`");
        const Function& f = found->second;
        const auto given = o.size() > 1u + has_result ? split(inside(o[1 + has_result])) : std::vector<std::string>();
        if (given.size() != f.parameters.size()) throw Error("another number of parameters than the function has");
        Scope scope;
        u32 offset;
        for (size_t i = 0; i < given.size(); i++) scope[f.parameters[i].name] = meaning(given[i], offset);
        if (has_result) scope[f.result] = meaning(inside(o[0]), offset);
        std::vector<Scope> inner = {scope};
        std::swap(scopes, inner);
        if (++calls > 64) throw Error("calls within calls");
        body(f, f.name + "#" + std::to_string(kernel.code.size()) + "/");
        std::swap(scopes, inner);
    }

    void shuffle(const std::string& opcode, const std::vector<std::string>& o) {
        if (opcode != "shfl.sync.bfly.b32") throw Error("unknown shuffle: only shfl.sync.bfly.b32");
        const size_t bar = o.at(0).find('|');
        to(0, trim(o[0].substr(0, bar)), File::Word);
        made.count = bar == std::string::npos ? 1 : 2;
        if (made.count == 2) to(1, trim(o[0].substr(bar + 1)), File::Predicate);
        for (int i = 0; i < 4; i++) from(i, o.at(i + 1), File::Word);
        emit(shuffle_xor, Flow::Together);
    }

    void load_matrices(const std::string& opcode, const std::vector<std::string>& o) {
        const auto parts = split_at(opcode, '.');
        std::string rest;
        made.count = 1;
        for (size_t i = 1; i < parts.size(); i++) {
            if (parts[i] == "trans") made.flag = !planted("trans");
            else if (parts[i] == "x2") made.count = 2;
            else if (parts[i] == "x4") made.count = 4;
            else if (parts[i] != "x1") rest += "." + parts[i];
        }
        if (rest != ".sync.aligned.m8n8.shared.b16" && rest != ".sync.aligned.m8n8.shared::cta.b16")
            throw Error("unknown ldmatrix");
        const auto results = vector_of(o.at(0));
        for (int i = 0; i < made.count; i++) to(i, results.at(i), File::Word);
        address(0, o.at(1), File::Word);
        emit(::load_matrices, Flow::Together);
    }

    void multiply(const std::string& opcode, const std::vector<std::string>& o) {
        const bool is_bf16 = opcode == "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";
        if (!is_bf16 && opcode != "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")
            throw Error("unknown mma: only m16n8k16 of bf16 or f16 with sums in f32");
        int next = 0;
        for (int i = 0; i < 4; i++) to(i, vector_of(o.at(0)).at(i), File::Word);
        for (const auto& [which, count] : {std::pair(1, 4), std::pair(2, 2), std::pair(3, 4)})
            for (int i = 0; i < count; i++) from(next++, vector_of(o.at(which)).at(i), File::Word);
        emit(is_bf16 ? multiply_bf16 : multiply_f16, Flow::Together);
    }

    void copy_async(const std::string& opcode, const std::vector<std::string>& o) {
        if (opcode == "cp.async.commit_group") return emit(::commit_copies);
        if (opcode == "cp.async.wait_all" || opcode == "cp.async.wait_group") {
            made.immediate = opcode == "cp.async.wait_all" ? 0 : (i64)number(o.at(0));
            made.flag = opcode == "cp.async.wait_all";
            if (planted("wait")) return;
            return emit(::wait_for_copies);
        }
        const std::string plain = opcode.substr(0, opcode.find(".L2::"));
        if (plain != "cp.async.cg.shared.global" && plain != "cp.async.ca.shared.global")
            throw Error("unknown asynchronous copy");
        made.bytes = (u8)number(o.at(2));
        address(1, o.at(1), File::Long);
        if (made.immediate) throw Error("an offset of the source");
        address(0, o.at(0), File::Word);
        // The fourth says how many bytes come from the source, or that none do.
        made.flag = o.size() > 3 && is_of(File::Predicate, o[3]);
        from(2, o.size() > 3 ? o[3] : o[2], made.flag ? File::Predicate : File::Word);
        emit(::copy_async);
    }

    // ld.global.nc.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1+16]
    void load_or_store(const std::string& opcode, const std::vector<std::string>& o, bool load) {
        const auto parts = split_at(opcode, '.');
        const std::string &space = parts.at(1), &type = parts.back();
        for (size_t i = 2; i + 1 < parts.size(); i++) {
            if (parts[i] == "v2") made.count = 2;
            else if (parts[i] == "v4") made.count = 4;
            else if (parts[i] == "volatile" || parts[i] == "relaxed" || parts[i] == "acquire")
                throw Error("unknown modifier `." + parts[i] + "`");
        }
        made.bytes = (u8)bytes_of(type);
        const std::string& memory = o.at(load ? 1 : 0);
        const auto values = vector_of(o.at(load ? 0 : 1));
        if (values.size() != made.count) throw Error("another number of values than the vector has");
        const bool wide = made.bytes == 8 || is_of(File::Long, values[0]);
        made.flag = type[0] == 's';
        const File file = wide ? File::Long : File::Word;
        if (space == "param") return parameter(memory, values[0], file, load);
        const File pointer = space == "shared" && !is_of(File::Long, parts_of(memory).first) ? File::Word : File::Long;
        for (int i = 0; i < made.count; i++) {
            if (load) to(i, values[i], file);
            else from(1 + i, values[i], file);
        }
        address(0, memory, pointer);
        const Run run = access(space, load, made.bytes, wide, pointer == File::Long);
        if (!run) throw Error("unknown state space `." + space + "`");
        emit(run);
    }

    // The kernel's own parameters lie in memory; those of calls are registers.
    void parameter(const std::string& memory, const std::string& value, File file, bool load) {
        const auto [base, offset] = parts_of(memory);
        if (load && end_of_call.empty()) {
            for (const Parameter& p : kernel.parameters) {
                if (p.name != base) continue;
                if (offset < 0 || offset + made.bytes > p.bytes) throw Error("more bytes than the parameter has");
                made.immediate = p.offset + offset;
                to(0, value, file);
                return emit(access("param", true, made.bytes, file == File::Long, true));
            }
        }
        u32 none;
        const Meaning& m = meaning(base, none);
        if (m.file == File::Predicate || (m.file == File::Word && file == File::Long) || offset < 0 || offset % 8 ||
            offset / 8 >= m.count)
            throw Error("an unknown part of a parameter");
        (load ? made.from : made.to)[0] = m.first + (u32)offset / 8;
        if (load) to(0, value, file);
        else from(0, value, file);
        const char* same = file == File::Long ? "mov.b64" : "mov.b32";
        emit(operation(m.file == file ? same : load ? "cvt.u32.u64" : "cvt.u64.u32")->run);
    }
};

}  // namespace

u16 kind_of(const std::string& opcode) {
    // Of memory and copies with the space or the form, of the rest the first word.
    const auto parts = split_at(opcode, '.');
    std::string name = parts[0];
    if ((name == "ld" || name == "st" || name == "cp") && parts.size() > 1) name += "." + parts[1];
    if (name == "cp.async" && parts.size() > 2) name += "." + parts[2];
    const auto found = std::find(kinds().begin(), kinds().end(), name);
    const u16 index = (u16)(found - kinds().begin());
    if (index == kinds().size()) kinds().push_back(name);
    return index;
}

std::shared_ptr<Kernel> assemble(Module& module, const std::string& name) {
    if (const auto found = module.assembled.find(name); found != module.assembled.end()) return found->second;
    const auto found = module.kernels.find(name);
    if (found == module.kernels.end()) return nullptr;
    auto kernel = std::make_shared<Kernel>();
    try {
        Assembler(module, found->second, *kernel).run(found->second);
    } catch (const std::exception& e) {
        throw Error(name + ": " + e.what());
    }
    return module.assembled[name] = kernel;
}
