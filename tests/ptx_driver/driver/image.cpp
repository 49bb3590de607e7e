// Fat binaries, as nvcc writes them and cuobjdump reads them: a header, then entries of PTX (kind 1) and machine code
// (kind 2), each with its own header. Text may be compressed: by zstd, as --compress-mode=size has it.
#include <dlfcn.h>

#include <cstring>

#include "ptx.h"

namespace {

template <class T> T at(const u8* p) {
    T value;
    memcpy(&value, p, sizeof value);
    return value;
}

std::string from_zstd(const u8* data, size_t bytes, size_t plain) {
    static void* library = dlopen("libzstd.so.1", RTLD_NOW);
    if (!library) throw Error("the PTX is compressed by zstd, and libzstd.so.1 is not installed");
    const auto decompress = (size_t(*)(void*, size_t, const void*, size_t))dlsym(library, "ZSTD_decompress");
    const auto is_error = (unsigned (*)(size_t))dlsym(library, "ZSTD_isError");
    std::string text(plain, '\0');
    if (is_error(decompress(text.data(), plain, data, bytes))) throw Error("the compressed PTX is damaged");
    return text;
}

}  // namespace

std::string ptx_of_image(const void* image) {
    const u8* begin = (const u8*)image;
    if (at<u32>(begin) != 0xba55ed50) {
        const std::string text((const char*)image, strnlen((const char*)image, 4096));
        if (text.find(".version") == std::string::npos) throw Error("neither a fat binary nor PTX");
        return (const char*)image;
    }
    const u8 *entry = begin + at<u16>(begin + 6), *end = entry + at<u64>(begin + 8);
    std::string found;
    u32 best = 0;
    while (entry < end) {
        const u16 kind = at<u16>(entry);
        const u32 header = at<u32>(entry + 4), compressed = at<u32>(entry + 16), architecture = at<u32>(entry + 28);
        const u64 size = at<u64>(entry + 8), flags = at<u64>(entry + 40), plain = at<u64>(entry + 56);
        // The oldest: it is what every GPU can take.
        if (kind == 1 && (!best || architecture < best)) {
            const size_t bytes = compressed ? compressed : size;
            best = architecture;
            if (!plain) found.assign((const char*)entry + header, strnlen((const char*)entry + header, size));
            else if (flags & 0x8000) found = from_zstd(entry + header, bytes, plain);
            else throw Error("the PTX is compressed otherwise than by --compress-mode=size");
        }
        entry += header + size;
    }
    if (found.empty()) throw Error("the fat binary has no PTX");
    return found;
}
