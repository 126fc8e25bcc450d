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

// Fills all `receives` and sends all `sends`; returns 0 when both are done. On failure returns 1, writes the rank with
// which it failed to `peer` (-1 if unknown), and every connection is closed: the mesh is only good for freeing.
int32_t lidit_gloo_exchange(
    lidit_gloo* mesh, uint64_t slot, const lidit_part* sends, size_t num_sends, const lidit_part* receives,
    size_t num_receives, uint64_t timeout_ms, int32_t* peer, char* error, size_t error_capacity);

// Makes the exchange under way in another thread, and every later one, fail.
void lidit_gloo_abort(lidit_gloo* mesh);

void lidit_gloo_free(lidit_gloo* mesh);
}
