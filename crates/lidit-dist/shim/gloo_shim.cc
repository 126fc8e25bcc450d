#include "gloo_shim.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/store.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>

using std::chrono::milliseconds;

using Buffer = std::unique_ptr<gloo::transport::UnboundBuffer>;

// The buffers of an exchange that has begun, each with its peer.
struct Exchange {
  std::vector<std::pair<int32_t, Buffer>> in;
  std::vector<std::pair<int32_t, Buffer>> out;
};

struct lidit_gloo {
  std::shared_ptr<gloo::rendezvous::Context> context;
  // What an abort has to wake: the exchanges under way, oldest first. Only the exchanging thread changes the list.
  std::mutex mutex;
  std::deque<Exchange> under_way;
  bool aborted = false;

  // After a failure: connections close before the buffers go.
  void close() {
    try {
      context->closeConnections();
    } catch (...) {
      // Closing what is broken already: the first failure is the one to tell.
    }
    std::lock_guard<std::mutex> lock(mutex);
    under_way.clear();
  }
};

namespace {

// A value of the store: the addresses of one rank's connections to all others.
constexpr size_t kMaxValue = 1 << 20;

class CallbackStore : public gloo::rendezvous::Store {
 public:
  CallbackStore(void* store, lidit_store_set set, lidit_store_get get, milliseconds timeout)
      : store_(store), set_(set), get_(get), timeout_(timeout) {}

  void set(const std::string& key, const std::vector<char>& value) override {
    if (set_(store_, key.data(), key.size(), value.data(), value.size()) != 0) {
      throw std::runtime_error("the rendezvous store refused the key " + key);
    }
  }

  std::vector<char> get(const std::string& key) override {
    return fetch(key, timeout_);
  }

  void wait(const std::vector<std::string>& keys) override {
    wait(keys, timeout_);
  }

  void wait(const std::vector<std::string>& keys, const milliseconds&) override {
    for (const auto& key : keys) {
      fetch(key, timeout_);
    }
  }

 private:
  std::vector<char> fetch(const std::string& key, milliseconds timeout) {
    std::vector<char> value(kMaxValue);
    const auto wait = static_cast<uint64_t>(std::max<int64_t>(0, timeout.count()));
    const int64_t length = get_(store_, key.data(), key.size(), value.data(), value.size(), wait);
    if (length < 0) {
      throw std::runtime_error("no rank set the key " + key + " in the rendezvous store");
    }
    value.resize(static_cast<size_t>(length));
    return value;
  }

  void* store_;
  lidit_store_set set_;
  lidit_store_get get_;
  milliseconds timeout_;
};

void explain(const char* what, char* error, size_t capacity) {
  if (capacity > 0) {
    std::strncpy(error, what, capacity - 1);
    error[capacity - 1] = '\0';
  }
}

constexpr const char* kAborted = "a rank left the run";

milliseconds left(std::chrono::steady_clock::time_point until) {
  const auto left = std::chrono::duration_cast<milliseconds>(until - std::chrono::steady_clock::now());
  // Gloo takes zero for "no timeout".
  return std::max(left, milliseconds(1));
}

} // namespace

lidit_gloo* lidit_gloo_connect(
    int32_t rank, int32_t size, const char* address, uint64_t timeout_ms, void* store, lidit_store_set set,
    lidit_store_get get, char* error, size_t error_capacity) {
  try {
    const auto timeout = milliseconds(std::max<uint64_t>(1, timeout_ms));
    gloo::transport::tcp::attr attr;
    attr.hostname = address;
    auto device = gloo::transport::tcp::CreateDevice(attr);
    auto mesh = std::make_unique<lidit_gloo>();
    mesh->context = std::make_shared<gloo::rendezvous::Context>(rank, size);
    // Gloo waits five times this long for a connection.
    mesh->context->setTimeout(std::max(timeout / 5, milliseconds(1)));
    CallbackStore callbacks(store, set, get, timeout);
    mesh->context->connectFullMesh(callbacks, device);
    return mesh.release();
  } catch (const std::exception& failure) {
    explain(failure.what(), error, error_capacity);
  } catch (...) {
    explain("an exception without a text", error, error_capacity);
  }
  return nullptr;
}

int32_t lidit_gloo_begin(
    lidit_gloo* mesh, uint64_t slot, const lidit_part* sends, size_t num_sends, const lidit_part* receives,
    size_t num_receives, int32_t* peer, char* error, size_t error_capacity) {
  *peer = -1;
  try {
    Exchange* exchange = nullptr;
    {
      std::lock_guard<std::mutex> lock(mesh->mutex);
      if (mesh->aborted) {
        throw std::runtime_error(kAborted);
      }
      exchange = &mesh->under_way.emplace_back();
      exchange->in.reserve(num_receives);
      exchange->out.reserve(num_sends);
      for (size_t i = 0; i < num_receives; i++) {
        exchange->in.emplace_back(
            receives[i].peer, mesh->context->createUnboundBuffer(receives[i].data, receives[i].bytes));
      }
      for (size_t i = 0; i < num_sends; i++) {
        exchange->out.emplace_back(sends[i].peer, mesh->context->createUnboundBuffer(sends[i].data, sends[i].bytes));
      }
    }
    for (const auto& [from, buffer] : exchange->in) {
      *peer = from;
      buffer->recv(from, slot);
    }
    for (const auto& [to, buffer] : exchange->out) {
      *peer = to;
      buffer->send(to, slot);
    }
    return 0;
  } catch (const std::exception& failure) {
    explain(failure.what(), error, error_capacity);
  } catch (...) {
    explain("an exception without a text", error, error_capacity);
  }
  mesh->close();
  return 1;
}

int32_t lidit_gloo_finish(
    lidit_gloo* mesh, uint64_t timeout_ms, int32_t* peer, char* error, size_t error_capacity) {
  *peer = -1;
  try {
    const auto until = std::chrono::steady_clock::now() + milliseconds(timeout_ms);
    if (mesh->under_way.empty()) {
      throw std::runtime_error("no exchange has begun");
    }
    const Exchange& exchange = mesh->under_way.front();
    for (const auto& [from, buffer] : exchange.in) {
      *peer = from;
      if (!buffer->waitRecv(left(until))) {
        throw std::runtime_error(kAborted);
      }
    }
    for (const auto& [to, buffer] : exchange.out) {
      *peer = to;
      if (!buffer->waitSend(left(until))) {
        throw std::runtime_error(kAborted);
      }
    }
    std::lock_guard<std::mutex> lock(mesh->mutex);
    if (mesh->aborted) {
      throw std::runtime_error(kAborted);
    }
    mesh->under_way.pop_front();
    return 0;
  } catch (const std::exception& failure) {
    explain(failure.what(), error, error_capacity);
  } catch (...) {
    explain("an exception without a text", error, error_capacity);
  }
  mesh->close();
  return 1;
}

void lidit_gloo_abort(lidit_gloo* mesh) {
  try {
    std::lock_guard<std::mutex> lock(mesh->mutex);
    mesh->aborted = true;
    for (const auto& exchange : mesh->under_way) {
      for (const auto& part : exchange.in) {
        part.second->abortWaitRecv();
      }
      for (const auto& part : exchange.out) {
        part.second->abortWaitSend();
      }
    }
  } catch (...) {
    // The deadline ends what an abort could not.
  }
}

void lidit_gloo_free(lidit_gloo* mesh) {
  try {
    delete mesh;
  } catch (...) {
    // Nothing can be done about a connection that fails to close.
  }
}
