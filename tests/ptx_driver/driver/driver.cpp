// The driver's functions and their rules. What is queued in a stream waits until something asks for its end; what is
// captured becomes a graph. A kernel that fails makes every later call fail, as on a GPU.
#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>

#include "fault.h"
#include "warp.h"

using Result = int;
using Address = unsigned long long;

namespace {

enum : Result {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_UNMATCHED = 903,
    CAPTURE_IMPLICIT = 906, CAPTURE_WRONG_THREAD = 908,
};

struct Device;
using Work = std::function<void()>;
struct Stream {
    Device* device;
    bool with_null;  // in order with the null stream
    std::vector<Work> pending, captured;
    bool capturing = false, invalid = false;
    int capture_mode = 0;
    const void* capturing_thread = nullptr;
};
struct Device {
    Memory memory;
    u64 used = 0;
    Result failed = OK;  // what every later call gives
    std::set<Stream*> streams;
    Stream null{this, true, {}, {}};
};
struct Entry {
    std::shared_ptr<Kernel> kernel;
    u32 most_dynamic;
};
struct Loaded {
    std::unique_ptr<Module> module;
    std::map<std::string, Entry> functions;
};
struct Event {
    bool recorded = false, done = true;
    double seconds = 0;
};
struct Graph {
    std::vector<Work> work;
};

std::recursive_mutex lock;
bool initialized = false;
std::map<const void*, u64> pinned;
std::map<std::string, u64> calls;
std::map<std::string, u64> launches;
Counts counts;
thread_local Device* current = nullptr;
thread_local char this_thread;
const bool verbose = is_set("PTX_DRIVER_VERBOSE");

std::vector<std::unique_ptr<Device>>& devices() {
    // Not destroyed: programs may call until they end.
    static auto& all = *[] {
        auto* made = new std::vector<std::unique_ptr<Device>>((size_t)setting("PTX_DRIVER_DEVICES", 1));
        for (auto& device : *made) device = std::make_unique<Device>();
        return made;
    }();
    return all;
}
u64 memory_of_device() { return (u64)setting("PTX_DRIVER_MEMORY", 16l << 30); }
int capability(int part) {
    const char* set = getenv("PTX_DRIVER_CAPABILITY");
    const std::string value = set ? set : "9.0";
    return part == 0 ? atoi(value.c_str()) : atoi(value.c_str() + value.find('.') + 1);
}
void say(const std::string& what) { fprintf(stderr, "[ptx_driver] %s\n", what.c_str()); }

void finish(Stream& stream) {
    std::vector<Work> work;
    work.swap(stream.pending);
    for (const Work& each : work) if (!stream.device->failed) each();
}
// What the null stream waits for, too: all but the streams that were made not to.
void finish_with_null(Device& device) { for (Stream* stream : device.streams) if (stream->with_null) finish(*stream); }
void finish_all(Device& device) { for (Stream* stream : device.streams) finish(*stream); }

Result queue(void* handle, Work work) {
    Stream* stream = handle ? (Stream*)handle : &current->null;
    if (handle && !current->streams.contains(stream)) return INVALID_HANDLE;
    if (stream->capturing) {
        if (stream->invalid) return CAPTURE_INVALIDATED;
        stream->captured.push_back(std::move(work));
        return OK;
    }
    stream->pending.push_back(std::move(work));
    static const bool eager = is_set("PTX_DRIVER_EAGER");
    if (eager || !handle) finish(*stream);
    return current->failed;
}

// Calls that no capture may see: of this thread, or of any where the capture was begun so. They spoil it.
Result outside_capture(const char* name, Result result) {
    for (Stream* stream : current->streams) {
        const bool sees = stream->capture_mode == 0 || (stream->capture_mode == 1 && stream->capturing_thread == &this_thread);
        if (!stream->capturing || !sees) continue;
        say(std::string(name) + " while a stream is captured");
        stream->invalid = true;
        return result;
    }
    return OK;
}

bool has(Address address, size_t bytes) { return current->memory.contains(address, bytes); }
bool is_pinned(const void* host, size_t bytes) {
    auto after = pinned.upper_bound(host);
    if (after == pinned.begin()) return false;
    --after;
    return (const char*)host + bytes <= (const char*)after->first + after->second;
}
double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Whether this allocation is to fail.
bool no_room() {
    static long number = 0;
    const long fault = planted_at("memory");
    return fault && ++number >= fault;
}

Result launch(Device* device, const Launch& what) {
    static long number = 0;
    if (const long lost = planted_at("lost"); lost && ++number >= lost) return device->failed = LAUNCH_FAILED;
    try {
        launches[what.kernel->name]++;
        run(what, device->memory, counts);
    } catch (const std::exception& e) {
        say(std::string("a kernel fails: ") + e.what());
        device->failed = ILLEGAL_ADDRESS;
    }
    return device->failed;
}

struct AtExit {
    ~AtExit() {
        const char* path = getenv("PTX_DRIVER_COUNTS");
        FILE* file = path ? fopen(path, "w") : nullptr;
        if (!file) return;
        for (const auto& [name, number] : calls) fprintf(file, "call %s %llu\n", name.c_str(), (unsigned long long)number);
        for (const auto& [name, number] : launches)
            fprintf(file, "launch %s %llu\n", name.c_str(), (unsigned long long)number);
        for (size_t i = 0; i < counts.warps.size(); i++)
            fprintf(file, "instruction %s %llu %llu\n", kinds()[i].c_str(), (unsigned long long)counts.warps[i],
                    (unsigned long long)counts.threads[i]);
        fclose(file);
    }
} at_exit;

}  // namespace

// Of every function: one at a time, and counted.
#define CALLED                                                 \
    const std::lock_guard<std::recursive_mutex> guard(lock);   \
    calls[__func__]++;                                         \
    if (verbose) say(__func__);
// Of those that need a context.
#define IN_CONTEXT                                                   \
    CALLED                                                           \
    if (!initialized) return NOT_INITIALIZED;                        \
    if (!current) {                                                  \
        say(std::string(__func__) + " without a current context");   \
        return INVALID_CONTEXT;                                      \
    }                                                                \
    if (current->failed) return current->failed;
#define NOT_IN_CAPTURE(result) \
    IN_CONTEXT                 \
    if (const Result r = outside_capture(__func__, result)) return r;

extern "C" {

Result cuInit(unsigned) { CALLED if (devices().empty()) return 100; initialized = true; return OK; }
Result cuDriverGetVersion(int* version) { CALLED *version = (int)setting("PTX_DRIVER_VERSION", 13000); return OK; }
Result cuDeviceGetCount(int* count) { CALLED *count = (int)devices().size(); return initialized ? OK : NOT_INITIALIZED; }
Result cuDeviceGet(int* device, int ordinal) {
    CALLED
    *device = ordinal;
    return ordinal >= 0 && ordinal < (int)devices().size() ? OK : INVALID_DEVICE;
}
Result cuDeviceGetName(char* name, int length, int device) {
    CALLED
    snprintf(name, (size_t)length, "PTX stand-in %d", device);
    return OK;
}
Result cuDeviceTotalMem_v2(size_t* bytes, int) { CALLED *bytes = memory_of_device(); return OK; }
Result cuDeviceGetAttribute(int* value, int attribute, int) {
    CALLED
    *value = attribute == 75 ? capability(0) : attribute == 76 ? capability(1) : attribute == 16 ? 4 : 0;
    return OK;
}
Result cuDevicePrimaryCtxRetain(void** context, int device) {
    CALLED
    *context = devices().at((size_t)device).get();
    return OK;
}
Result cuCtxSetCurrent(void* context) {
    CALLED
    const bool known = std::any_of(devices().begin(), devices().end(), [&](auto& device) { return device.get() == context; });
    if (context && !known) return INVALID_CONTEXT;
    current = (Device*)context;
    return OK;
}

Result cuMemAlloc_v2(Address* address, size_t bytes) {
    NOT_IN_CAPTURE(CAPTURE_UNSUPPORTED)
    if (!bytes) return INVALID_VALUE;
    const u64 largest = (u64)setting("PTX_DRIVER_LARGEST", LONG_MAX);
    if (no_room() || bytes > largest || current->used + bytes > memory_of_device()) return OUT_OF_MEMORY;
    void* memory = aligned_alloc(512, (bytes + 511) / 512 * 512);
    if (!memory) return OUT_OF_MEMORY;
    memset(memory, 0xff, bytes);
    current->memory.add((Address)memory, bytes);
    current->used += bytes;
    *address = (Address)memory;
    return OK;
}
Result cuMemFree_v2(Address address) {
    NOT_IN_CAPTURE(CAPTURE_UNSUPPORTED)
    finish_all(*current);
    const u64 bytes = current->memory.remove(address);
    if (!bytes) return INVALID_VALUE;
    current->used -= bytes;
    free((void*)address);
    return current->failed;
}
Result cuMemGetInfo_v2(size_t* free, size_t* total) {
    IN_CONTEXT
    *total = memory_of_device();
    *free = *total - current->used;
    return OK;
}
Result cuMemHostAlloc(void** host, size_t bytes, unsigned) {
    NOT_IN_CAPTURE(CAPTURE_UNSUPPORTED)
    if (no_room()) return OUT_OF_MEMORY;
    *host = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    pinned[*host] = bytes;
    return *host ? OK : OUT_OF_MEMORY;
}
Result cuMemFreeHost(void* host) {
    NOT_IN_CAPTURE(CAPTURE_UNSUPPORTED)
    finish_all(*current);
    if (!pinned.erase(host)) return INVALID_VALUE;
    free(host);
    return current->failed;
}
Result cuMemcpyHtoD_v2(Address to, const void* host, size_t bytes) {
    NOT_IN_CAPTURE(CAPTURE_IMPLICIT)
    if (!has(to, bytes)) return INVALID_VALUE;
    finish_with_null(*current);
    if (!current->failed) memcpy((void*)to, host, bytes);
    return current->failed;
}
Result cuMemcpyDtoH_v2(void* host, Address from, size_t bytes) {
    NOT_IN_CAPTURE(CAPTURE_IMPLICIT)
    if (!has(from, bytes)) return INVALID_VALUE;
    finish_with_null(*current);
    if (!current->failed) memcpy(host, (const void*)from, bytes);
    return current->failed;
}
Result cuMemcpyHtoDAsync_v2(Address to, const void* host, size_t bytes, void* stream) {
    IN_CONTEXT
    if (!has(to, bytes)) return INVALID_VALUE;
    // Pinned memory is read when the copy's turn comes, other memory before this returns.
    if (is_pinned(host, bytes)) return queue(stream, [=] { memcpy((void*)to, host, bytes); });
    std::vector<char> kept((const char*)host, (const char*)host + bytes);
    return queue(stream, [=] { memcpy((void*)to, kept.data(), bytes); });
}
Result cuMemcpyDtoHAsync_v2(void* host, Address from, size_t bytes, void* stream) {
    IN_CONTEXT
    if (!has(from, bytes)) return INVALID_VALUE;
    const Result queued = queue(stream, [=] { memcpy(host, (const void*)from, bytes); });
    // Into other than pinned memory the copy is done when this returns.
    Stream* in = stream ? (Stream*)stream : &current->null;
    if (!queued && !is_pinned(host, bytes) && !in->capturing) finish(*in);
    return queued ? queued : current->failed;
}
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void* stream) {
    IN_CONTEXT
    if (!has(to, bytes) || !has(from, bytes)) return INVALID_VALUE;
    return queue(stream, [=] { memmove((void*)to, (const void*)from, bytes); });
}
Result cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void* stream) {
    IN_CONTEXT
    if (!has(to, bytes)) return INVALID_VALUE;
    return queue(stream, [=] { memset((void*)to, value, bytes); });
}

Result cuModuleLoadData(void** module, const void* image) {
    NOT_IN_CAPTURE(CAPTURE_UNSUPPORTED)
    try {
        auto loaded = std::make_unique<Loaded>();
        loaded->module = parse(ptx_of_image(image));
        *module = loaded.release();
        return OK;
    } catch (const std::exception& e) {
        say(std::string("a module is refused: ") + e.what());
        return INVALID_IMAGE;
    }
}
Result cuModuleGetFunction(void** function, void* module, const char* name) {
    IN_CONTEXT
    Loaded* loaded = (Loaded*)module;
    try {
        const auto kernel = assemble(*loaded->module, name);
        if (!kernel) return NOT_FOUND;
        *function = &loaded->functions.try_emplace(name, Entry{kernel, 48 * 1024 - kernel->static_shared}).first->second;
        return OK;
    } catch (const std::exception& e) {
        say(std::string("a kernel is refused: ") + e.what());
        return INVALID_IMAGE;
    }
}
Result cuFuncGetAttribute(int* value, int attribute, void* function) {
    IN_CONTEXT
    const Entry& f = *(Entry*)function;
    if (attribute == 0) *value = (int)f.kernel->most_threads;
    else if (attribute == 1) *value = (int)f.kernel->static_shared;
    else if (attribute == 3) *value = (int)f.kernel->local_bytes;
    else if (attribute == 8) *value = (int)f.most_dynamic;
    else return INVALID_VALUE;
    return OK;
}
Result cuFuncSetAttribute(void* function, int attribute, int value) {
    IN_CONTEXT
    Entry& f = *(Entry*)function;
    // 227 KiB on 9.0, 163 on 8.0, 99 on the smaller ones.
    const u32 most = capability(1) ? 99 : capability(0) == 8 ? 163 : capability(0) == 9 ? 227 : 99;
    if (attribute != 8 || value < 0 || (u32)value + f.kernel->static_shared > most * 1024) return INVALID_VALUE;
    f.most_dynamic = (u32)value;
    return OK;
}
// From CUDA 12.4 on.
Result cuFuncGetParamInfo(void* function, size_t index, size_t* offset, size_t* bytes) {
    IN_CONTEXT
    const auto& parameters = ((Entry*)function)->kernel->parameters;
    if (index >= parameters.size()) return INVALID_VALUE;
    *offset = parameters[index].offset;
    *bytes = parameters[index].bytes;
    return OK;
}
Result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void* stream, void** arguments, void** extra) {
    IN_CONTEXT
    if (const long code = planted_at("code")) return (Result)code;
    const Entry& f = *(Entry*)function;
    const u64 threads = (u64)bx * by * bz;
    if (!gx || !gy || !gz || !threads || gx > 0x7fffffff || gy > 65535 || gz > 65535 || bz > 64 || extra ||
        threads > f.kernel->most_threads || shared > f.most_dynamic)
        return INVALID_VALUE;
    Launch what{f.kernel, {gx, gy, gz}, {bx, by, bz}, shared, std::vector<u8>(f.kernel->parameter_bytes)};
    for (size_t i = 0; i < f.kernel->parameters.size(); i++)
        memcpy(&what.parameters[f.kernel->parameters[i].offset], arguments[i], f.kernel->parameters[i].bytes);
    Device* device = current;
    return queue(stream, [=] { launch(device, what); });
}

Result cuStreamCreate(void** stream, unsigned flags) {
    NOT_IN_CAPTURE(CAPTURE_UNSUPPORTED)
    Stream* made = new Stream{current, !(flags & 1), {}, {}};
    current->streams.insert(made);
    *stream = made;
    return OK;
}
Result cuStreamSynchronize(void* stream) {
    NOT_IN_CAPTURE(CAPTURE_UNSUPPORTED)
    Stream* s = stream ? (Stream*)stream : &current->null;
    if (stream && !current->streams.contains(s)) return INVALID_HANDLE;
    finish(*s);
    return current->failed;
}
Result cuStreamBeginCapture_v2(void* stream, int mode) {
    IN_CONTEXT
    Stream* s = (Stream*)stream;
    if (!current->streams.contains(s) || s->capturing) return INVALID_VALUE;
    s->capturing = true, s->invalid = false, s->capture_mode = mode, s->capturing_thread = &this_thread;
    s->captured.clear();
    return OK;
}
Result cuStreamEndCapture(void* stream, void** graph) {
    IN_CONTEXT
    Stream* s = (Stream*)stream;
    *graph = nullptr;
    if (!current->streams.contains(s) || !s->capturing) return CAPTURE_UNMATCHED;
    if (s->capture_mode != 2 && s->capturing_thread != &this_thread) return CAPTURE_WRONG_THREAD;
    s->capturing = false;
    if (s->invalid) return CAPTURE_INVALIDATED;
    *graph = new Graph{std::move(s->captured)};
    return OK;
}
Result cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    IN_CONTEXT
    *executable = new Graph(*(Graph*)graph);
    return OK;
}
Result cuGraphDestroy(void* graph) { IN_CONTEXT delete (Graph*)graph; return OK; }
Result cuGraphExecDestroy(void* graph) { IN_CONTEXT delete (Graph*)graph; return OK; }
Result cuGraphLaunch(void* graph, void* stream) {
    IN_CONTEXT
    for (const Work& work : ((Graph*)graph)->work) if (const Result r = queue(stream, work)) return r;
    return OK;
}

Result cuEventCreate(void** event, unsigned) { IN_CONTEXT *event = new Event; return OK; }
Result cuEventRecord(void* event, void* stream) {
    IN_CONTEXT
    Event* e = (Event*)event;
    e->recorded = true, e->done = false;
    return queue(stream, [=] { e->done = true, e->seconds = now(); });
}
Result cuEventSynchronize(void* event) {
    NOT_IN_CAPTURE(CAPTURE_UNSUPPORTED)
    if (!((Event*)event)->done) finish_all(*current);
    return current->failed;
}
Result cuEventElapsedTime(float* milliseconds, void* begin, void* end) {
    IN_CONTEXT
    const Event &a = *(Event*)begin, &b = *(Event*)end;
    if (!a.recorded || !b.recorded) return INVALID_HANDLE;
    if (!a.done || !b.done) return NOT_READY;
    *milliseconds = (float)((b.seconds - a.seconds) * 1e3);
    return OK;
}
Result cuEventDestroy_v2(void* event) { IN_CONTEXT finish_all(*current); delete (Event*)event; return current->failed; }

Result cuGetErrorName(int code, const char** name) {
    static const std::map<int, const char*> names = {
        {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {3, "CUDA_ERROR_NOT_INITIALIZED"},
        {100, "CUDA_ERROR_NO_DEVICE"}, {200, "CUDA_ERROR_INVALID_IMAGE"}, {201, "CUDA_ERROR_INVALID_CONTEXT"},
        {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {719, "CUDA_ERROR_LAUNCH_FAILED"},
        {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}, {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
        {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"}};
    const auto found = names.find(code);
    *name = found == names.end() ? nullptr : found->second;
    return found == names.end() ? INVALID_VALUE : OK;
}
}
