// Faults that tests plant: PTX_DRIVER_FAULT.
//   trans       ldmatrix ignores .trans
//   wait        cp.async.wait_group does not wait
//   barrier     bar.sync does not wait
//   parameter   the last parameter of every kernel is taken to have the other of 4 and 8 bytes
//   memory:N    the Nth allocation of memory, counted from 1, and all later ones find no room
//   lost:N      the device is lost at the Nth launch or replay
//   code:N      every launch fails with result N
#pragma once
#include <cstdlib>
#include <cstring>
#include <string>

inline bool planted(const char* fault) {
    static const char* asked = getenv("PTX_DRIVER_FAULT");
    return asked && !strcmp(asked, fault);
}
// The number behind the colon; 0 where that fault is not planted.
inline long planted_at(const char* fault) {
    static const char* asked = getenv("PTX_DRIVER_FAULT");
    const size_t length = strlen(fault);
    return asked && !strncmp(asked, fault, length) && asked[length] == ':' ? atol(asked + length + 1) : 0;
}
inline long setting(const char* name, long otherwise) {
    const char* value = getenv(name);
    return value && *value ? atol(value) : otherwise;
}
inline bool is_set(const char* name) { return getenv(name) != nullptr; }
