// A C interface over the part of Gloo that lidit needs: a full mesh of processes that can exchange buffers.
// No C++ exception leaves it: every failure is a null or a non-zero result and a text.

#pragma once

#include <stddef.h>
#include <stdint.h>

extern "C" {

struct lidit_gloo;

// The rendezvous store, by callbacks. `set` returns 0 on success. `get` waits for the key, writes at most `capacity`
// bytes, and returns their number, or a negative number if the key did not come within the timeout or is too long.
typedef int (*lidit_store_set)(void* store, const char* key, size_t key_len, const void* value, size_t len);
typedef int64_t (*lidit_store_get)(
    void* store, const char* key, size_t key_len, void* value, size_t capacity, uint64_t timeout_ms);

// A buffer to send to a peer or to fill from it. A send never writes to it.
struct lidit_part {
  int32_t peer;
  void* data;
  size_t bytes;
};

// Connects to every other rank. `store` is used during this call only.
lidit_gloo* lidit_gloo_connect(
    int32_t rank, int32_t size, const char* address, uint64_t timeout_ms, void* store, lidit_store_set set,
    lidit_store_get get, char* error, size_t error_capacity);

// Begins to fill all `receives` and to send all `sends`; their buffers must stay until a finish has returned for it, or
// until a failure. Exchanges finish in the order in which they began.
int32_t lidit_gloo_begin(
    lidit_gloo* mesh, uint64_t slot, const lidit_part* sends, size_t num_sends, const lidit_part* receives,
    size_t num_receives, int32_t* peer, char* error, size_t error_capacity);

// Waits until the oldest exchange that has begun is done. This and begin return 0, or 1 on failure: then they write the
// rank with which it failed to `peer` (-1 if unknown), every connection is closed, all buffers are let go of, and the mesh
// is only good for freeing.
int32_t lidit_gloo_finish(
    lidit_gloo* mesh, uint64_t timeout_ms, int32_t* peer, char* error, size_t error_capacity);

// Makes the exchanges under way in another thread, and every later one, fail.
void lidit_gloo_abort(lidit_gloo* mesh);

void lidit_gloo_free(lidit_gloo* mesh);
}
