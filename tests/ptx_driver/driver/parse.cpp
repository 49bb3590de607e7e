// Text to declarations and statements.
#include <algorithm>
#include <cstring>

#include "fault.h"
#include "ptx.h"

std::string trim(const std::string& s) {
    const size_t begin = s.find_first_not_of(" \t\r\n"), end = s.find_last_not_of(" \t\r\n");
    return begin == std::string::npos ? "" : s.substr(begin, end - begin + 1);
}

std::vector<std::string> split(const std::string& s) {
    std::vector<std::string> parts;
    std::string part;
    int depth = 0;
    for (const char c : s) {
        depth += (c == '{' || c == '[' || c == '(') - (c == '}' || c == ']' || c == ')');
        if (c == ',' && depth == 0) {
            parts.push_back(trim(part));
            part.clear();
        } else {
            part += c;
        }
    }
    if (!trim(part).empty()) parts.push_back(trim(part));
    return parts;
}

std::vector<std::string> split_at(const std::string& s, char separator) {
    std::vector<std::string> parts(1);
    for (const char c : s) {
        if (c == separator) parts.emplace_back();
        else parts.back() += c;
    }
    return parts;
}

u32 bytes_of(const std::string& type) {
    static const std::map<std::string, u32> bytes = {
        {"pred", 0}, {"b8", 1},  {"u8", 1},  {"s8", 1},   {"b16", 2},  {"u16", 2},   {"s16", 2}, {"f16", 2}, {"bf16", 2},
        {"b32", 4},  {"u32", 4}, {"s32", 4}, {"f32", 4},  {"b64", 8},  {"u64", 8},   {"s64", 8}, {"f64", 8}, {"f16x2", 4},
        {"bf16x2", 4}};
    const auto found = bytes.find(type);
    if (found == bytes.end()) throw Error("unknown type `." + type + "`");
    return found->second;
}

Declared declared(const std::string& text) {
    Declared d;
    std::string rest = trim(text.substr(0, text.find('=')));
    const size_t dot = rest.find_last_of('.'), end = rest.find_first_of(" \t\n", dot);
    if (dot == std::string::npos || end == std::string::npos) throw Error("a declaration without a type");
    d.bytes = bytes_of(rest.substr(dot + 1, end - dot - 1));
    d.name = trim(rest.substr(end));
    if (const size_t bracket = d.name.find('['); bracket != std::string::npos) {
        d.length = (u32)strtoul(d.name.c_str() + bracket + 1, nullptr, 0);
        d.name = d.name.substr(0, bracket);
        d.is_array = true;
    }
    const size_t align = rest.find(".align");
    d.align = align == std::string::npos ? d.bytes : (u32)atoi(rest.c_str() + align + 6);
    return d;
}

namespace {

// Without comments; lines stay where they are.
std::string without_comments(const std::string& text) {
    std::string plain;
    plain.reserve(text.size());
    for (size_t i = 0; i < text.size() && text[i]; i++) {
        if (text.compare(i, 2, "//") == 0) {
            while (i < text.size() && text[i] != '\n') i++;
            plain += '\n';
        } else if (text.compare(i, 2, "/*") == 0) {
            const size_t end = std::min(text.find("*/", i + 2), text.size() - 2);
            plain.append(std::count(text.begin() + i, text.begin() + end, '\n'), '\n');
            i = end + 1;
        } else {
            plain += text[i];
        }
    }
    return plain;
}

// The text in parts that end at `;`, `{`, `}` or the colon of a label, each of which is a statement of its own or ends
// one. Braces inside a statement (`mma ... {%r1,%r2}`, `= {1, 2}`) belong to it.
std::vector<Statement> statements(const std::string& text) {
    std::vector<Statement> all;
    std::string part;
    u32 line = 1, first = 1;
    int inside = 0;
    const auto end = [&] {
        if (!trim(part).empty()) all.push_back({trim(part), first});
        part.clear();
    };
    for (const char c : text) {
        if (c == '\n') line++;
        // A signature ends at its body, or at the semicolon of a declaration.
        const bool begun = !part.empty(), signature = begun && part[0] == '.';
        if ((c == '{' || c == '}') && !inside &&
            (!begun || (signature && c == '{' && part.find('=') == std::string::npos))) {
            end();
            all.push_back({std::string(1, c), line});
            first = line;
            continue;
        }
        if (c == ';' && !inside) {
            end();
            continue;
        }
        // Directives without a semicolon.
        if (c == '\n' && begun && !inside) {
            const std::string said = trim(part);
            if (said.rfind(".version", 0) == 0 || said.rfind(".target", 0) == 0 || said.rfind(".address_size", 0) == 0 ||
                said.rfind(".loc ", 0) == 0 || said.rfind(".loc\t", 0) == 0 || said.rfind(".file", 0) == 0) {
                end();
                continue;
            }
        }
        inside += (c == '{' || c == '(' || c == '[') - (c == '}' || c == ')' || c == ']');
        if (part.empty() && isspace((unsigned char)c)) continue;
        if (part.empty()) first = line;
        part += c;
        if (c == ':' && !inside && part[0] != '@' && part.find_first_of(" \t") == std::string::npos) {
            // A label, unless this is the first colon of `::` in an opcode.
            const bool label = part[0] == '$' || part[0] == '_' || part[0] == '%';
            if (label) end();
        }
    }
    end();
    return all;
}

std::vector<Parameter> parameters(const std::string& list) {
    std::vector<Parameter> all;
    u32 offset = 0;
    for (const std::string& text : split(list)) {
        const Declared d = declared(text);
        const u32 bytes = d.bytes * d.length, align = std::max(d.align, d.bytes);
        offset = (offset + align - 1) / align * align;
        all.push_back({d.name, bytes, offset});
        offset += bytes;
    }
    return all;
}

// `.visible .entry name (parameters) .maxntid 256, 1, 1` or `.func (result) name (parameters)`.
Function signature(const std::string& text) {
    Function f;
    const bool entry = text.find(".entry") != std::string::npos;
    size_t at = entry ? text.find(".entry") + 6 : text.find(".func") + 5;
    const auto bracketed = [&] {
        const size_t open = text.find('(', at), close = text.find(')', open);
        if (close == std::string::npos) throw Error("expected parameters in `" + text.substr(0, 80) + "`");
        const std::string before = trim(text.substr(at, open - at)), inside = text.substr(open + 1, close - open - 1);
        at = close + 1;
        return std::pair(before, inside);
    };
    auto [name, list] = bracketed();
    if (!entry && name.empty()) {
        const auto results = parameters(list);
        if (results.size() != 1) throw Error("expected one result in `" + text.substr(0, 80) + "`");
        f.result = results[0].name;
        std::tie(name, list) = bracketed();
    }
    f.name = name;
    f.parameters = parameters(list);
    if (entry && planted("parameter") && !f.parameters.empty()) f.parameters.back().bytes ^= 12;
    const size_t threads = text.find(".maxntid");
    if (threads != std::string::npos) {
        f.most_threads = 1;
        for (const std::string& n : split(text.substr(threads + 8))) f.most_threads *= std::max(1, atoi(n.c_str()));
    }
    return f;
}

std::vector<u8> table(const std::string& text, const Declared& d) {
    const u32 bytes = d.bytes;
    std::vector<u8> values(bytes * d.length);
    const size_t equals = text.find('=');
    if (equals == std::string::npos) return values;
    std::string list = trim(text.substr(equals + 1));
    if (!list.empty() && list[0] == '{') list = list.substr(1, list.size() - 2);
    size_t i = 0;
    for (const std::string& value : split(list)) {
        const u64 bits = value[0] == '-' ? (u64)strtoll(value.c_str(), nullptr, 0) : strtoull(value.c_str(), nullptr, 0);
        if ((i + 1) * bytes > values.size()) throw Error("more values than `" + d.name + "` has room for");
        memcpy(&values[i++ * bytes], &bits, bytes);
    }
    return values;
}

}  // namespace

std::unique_ptr<Module> parse(const std::string& text) {
    auto module = std::make_unique<Module>();
    const std::vector<Statement> all = statements(without_comments(text));
    for (size_t i = 0; i < all.size(); i++) {
        const std::string& s = all[i].text;
        const auto begins = [&](const char* word) { return s.rfind(word, 0) == 0; };
        try {
            if (begins(".version") || begins(".target") || begins(".address_size") || begins(".file")) continue;
            const bool function = s.find(".func") != std::string::npos, entry = s.find(".entry") != std::string::npos;
            if (function || entry) {
                Function f = signature(s);
                if (i + 1 >= all.size() || all[i + 1].text != "{") continue;  // a declaration
                int depth = 0;
                for (i++; i < all.size(); i++) {
                    depth += (all[i].text == "{") - (all[i].text == "}");
                    f.body.push_back(all[i]);
                    if (depth == 0) break;
                }
                (entry ? module->kernels : module->functions)[f.name] = f;
            } else if (s.find(".shared") != std::string::npos) {
                module->shared[declared(s).name] = s;
            } else if (begins(".global") || begins(".const") || begins(".visible .global")) {
                module->tables[declared(s).name] = table(s, declared(s));
            } else {
                throw Error("unknown directive");
            }
        } catch (const std::exception& e) {
            throw Error("line " + std::to_string(all[i].line) + ": " + e.what() + " in `" + s.substr(0, 160) + "`");
        }
    }
    return module;
}
