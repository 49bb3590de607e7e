// Loads, stores and asynchronous copies. Every access is checked.
#include <cstring>

#include "fault.h"
#include "warp.h"

std::map<u64, u64> Memory::tables;

std::pair<u64, u64> Memory::within(const std::map<u64, u64>& ranges, u64 address) {
    auto after = ranges.upper_bound(address);
    if (after == ranges.begin()) return {0, 0};
    --after;
    const u64 end = after->first + after->second;
    return address < end ? std::pair(after->first, end) : std::pair<u64, u64>(0, 0);
}

u64 Memory::remove(u64 address) {
    const auto found = ranges.extract(address);
    return found ? found.mapped() : 0;
}

bool Warp::may(u64 address, u64 bytes, bool only_read) {
    if (address >= near_begin && address + bytes <= near_end) return true;
    const auto [begin, end] = memory->around(address);
    if (end >= address + bytes && end) {
        near_begin = begin;
        near_end = end;
        return true;
    }
    return only_read && Memory::is_constant(address, bytes);
}

void use_shared(Warp& w, const Instruction& i, int lane, u64 address, u32 bytes, bool write) {
    Block& block = *w.block;
    if (address + bytes > block.shared.size())
        fail(w, i, "lane %d uses bytes %lu to %lu of %zu of shared memory", lane, address, address + bytes, block.shared.size());
    const u32 own = block.interval << 8 | w.index, several = block.interval << 8 | 255;
    for (u64 at = address / 2; at < (address + bytes + 1) / 2; at++) {
        const u32 written = block.written[at], read = block.read[at];
        const bool meets_writer = written >> 8 == block.interval && written != own;
        const bool meets_reader = write && read >> 8 == block.interval && read != own;
        if (meets_writer || meets_reader) {
            const char *does = write ? "writes" : "reads", *did = meets_writer ? "wrote" : "read";
            fail(w, i, "warp %u %s byte %lu of shared memory, which warp %u %s with no barrier between them", w.index, does,
                 at * 2, (meets_writer ? written : read) & 255, did);
        }
        if (write) block.written[at] = own;
        else block.read[at] = read >> 8 == block.interval && read != own ? several : own;
    }
}

namespace {

enum class Space { Global, Shared, Local, Parameter };

template <class R> R* file(Warp& w, u32 index) {
    if constexpr (sizeof(R) == 8) return w.longs[index];
    else return w.words[index];
}

// `count` values of type T between memory and registers of type R, at addresses in registers of type P.
template <Space SPACE, bool LOAD, class T, class R, class P> void move(Warp& w, const Instruction& i, Mask mask) {
    const u32 bytes = sizeof(T) * i.count;
    u64 address[LANES];
    const P* pointer = SPACE == Space::Parameter ? nullptr : file<P>(w, i.from[0]);
    for (int lane = 0; lane < LANES; lane++)
        address[lane] = SPACE == Space::Parameter ? (u64)i.immediate : (P)(pointer[lane] + (P)i.immediate);
    each_lane(mask, [&](int lane) {
        const u64 at = address[lane];
        u8* place;
        if (at % bytes) fail(w, i, "lane %d uses %u bytes at %#lx, which is misaligned", lane, bytes, at);
        if constexpr (SPACE == Space::Global) {
            if (!w.may(at, bytes, LOAD)) fail(w, i, "lane %d uses %u bytes at %#lx, in no allocation", lane, bytes, at);
            place = (u8*)at;
        } else if constexpr (SPACE == Space::Shared) {
            use_shared(w, i, lane, at, bytes, !LOAD);
            place = w.block->shared.data() + at;
        } else if constexpr (SPACE == Space::Local) {
            if (at + bytes > w.kernel->local_bytes) fail(w, i, "outside of local memory");
            place = w.local.data() + (size_t)lane * w.kernel->local_bytes + at;
        } else {
            place = const_cast<u8*>(w.parameters) + at;
        }
        for (u32 n = 0; n < i.count; n++) {
            T value;
            if constexpr (LOAD) {
                memcpy(&value, place + n * sizeof(T), sizeof(T));
                using Signed = std::make_signed_t<T>;
                file<R>(w, i.to[n])[lane] = i.flag ? (R)(i64)(Signed)value : (R)value;
            } else {
                value = (T)file<R>(w, i.from[1 + n])[lane];
                memcpy(place + n * sizeof(T), &value, sizeof(T));
            }
        }
    });
}

template <Space SPACE, bool LOAD, class P> Run choose(u32 bytes, bool wide) {
    switch (bytes * 2 + wide) {
        case 2: return move<SPACE, LOAD, u8, u32, P>;
        case 3: return move<SPACE, LOAD, u8, u64, P>;
        case 4: return move<SPACE, LOAD, u16, u32, P>;
        case 5: return move<SPACE, LOAD, u16, u64, P>;
        case 8: return move<SPACE, LOAD, u32, u32, P>;
        case 9: return move<SPACE, LOAD, u32, u64, P>;
        case 17: return move<SPACE, LOAD, u64, u64, P>;
        default: return nullptr;
    }
}

// Makes the copies of a lane arrive up to number `end`.
void arrive(Warp& w, int lane, size_t end) {
    std::vector<Copy>& copies = w.copies[lane];
    for (size_t n = 0; n < end; n++) {
        const Copy& copy = copies[n];
        u8* to = w.block->shared.data() + copy.to;
        memcpy(to, (const void*)copy.from, copy.bytes);
        memset(to + copy.bytes, 0, copy.whole - copy.bytes);
    }
    copies.erase(copies.begin(), copies.begin() + (long)end);
}

}  // namespace

Run access(const std::string& space, bool load, u32 bytes, bool wide, bool long_pointer) {
    const auto either = [&]<Space SPACE, class P>(std::integral_constant<Space, SPACE>, P) {
        return load ? choose<SPACE, true, P>(bytes, wide) : choose<SPACE, false, P>(bytes, wide);
    };
    constexpr std::integral_constant<Space, Space::Shared> shared;
    if (space == "global") return either(std::integral_constant<Space, Space::Global>(), u64());
    if (space == "local") return either(std::integral_constant<Space, Space::Local>(), u64());
    if (space == "param") return load ? choose<Space::Parameter, true, u64>(bytes, wide) : nullptr;
    if (space != "shared" && space != "shared::cta") return nullptr;
    return long_pointer ? either(shared, u64()) : either(shared, u32());
}

// The first `from[2]` bytes come from memory, the rest are zeros. Until somebody waits for it, what is there is NaN.
void copy_async(Warp& w, const Instruction& i, Mask mask) {
    each_lane(mask, [&](int lane) {
        const u32 to = w.words[i.from[0]][lane] + (u32)i.immediate;
        const u32 bytes = !i.flag ? w.words[i.from[2]][lane] : w.predicates[i.from[2]] >> lane & 1 ? 0 : i.bytes;
        const u64 from = w.longs[i.from[1]][lane];
        if (bytes > i.bytes || to % i.bytes || from % i.bytes || (bytes && !w.may(from, bytes, true)))
            fail(w, i, "lane %d copies %u of %u bytes from %#lx to %u of shared memory: misaligned or in no allocation", lane,
                 bytes, i.bytes, from, to);
        use_shared(w, i, lane, to, i.bytes, true);
        memset(w.block->shared.data() + to, 0xff, i.bytes);
        w.copies[lane].push_back({to, from, bytes, i.bytes});
    });
}

void commit_copies(Warp& w, const Instruction&, Mask mask) {
    each_lane(mask, [&](int lane) { w.groups[lane].push_back(w.copies[lane].size()); });
}

// Until at most `immediate` groups of the lane are under way; `flag`: until none is, and nothing uncommitted either.
void wait_for_copies(Warp& w, const Instruction& i, Mask mask) {
    each_lane(mask, [&](int lane) {
        std::vector<size_t>& groups = w.groups[lane];
        if (i.flag) {
            arrive(w, lane, w.copies[lane].size());
            groups.clear();
            return;
        }
        if (groups.size() <= (size_t)i.immediate) return;
        const size_t done = groups.size() - (size_t)i.immediate, end = groups[done - 1];
        arrive(w, lane, end);
        groups.erase(groups.begin(), groups.begin() + (long)done);
        for (size_t& group : groups) group -= end;
    });
}
