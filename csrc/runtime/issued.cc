#include "runtime/issued.h"

#include <pthread.h>

#include <deque>
#include <memory>
#include <mutex>
#include <new>

namespace mrt {
namespace {

// Records that came back wait behind so many others.
constexpr size_t kWaiting = 4096;
constexpr size_t kBlock = 512, kBlocks = 4096;

struct Table {
  std::mutex mutex;
  std::atomic<IssuedOutput*> blocks[kBlocks] = {};
  std::atomic<size_t> used{0};  // of all blocks
  std::deque<IssuedOutput*> free;
};

// Never freed: tensors of a caller may point into it.
Table* g_table = nullptr;

}  // namespace

void make_issued_table() {
  g_table = new Table;
  // Whoever forks holds the table, so that in the child no thread that is gone has it, and no list is half written.
  pthread_atfork([] { g_table->mutex.lock(); }, [] { g_table->mutex.unlock(); }, [] { g_table->mutex.unlock(); });
}

void IssuedOutput::give(const void* data, size_t bytes) {
  const auto holds = [&](const Given& g) {
    return g.data.load(std::memory_order_relaxed) == data && g.bytes.load(std::memory_order_relaxed) == bytes;
  };
  if (holds(given[last])) return;
  for (size_t i = 0; i < kGiven; ++i) {
    if (holds(given[i])) {
      last = i;
      return;
    }
  }
  last = next;
  next = (next + 1) % kGiven;
  given[last].data.store(data, std::memory_order_relaxed);
  given[last].bytes.store(bytes, std::memory_order_relaxed);
}

void IssuedOutput::take_back(const void* data) {
  for (Given& g : given)
    if (g.data.load(std::memory_order_relaxed) == data) g.data.store(nullptr, std::memory_order_relaxed);
}

void IssuedOutput::clear() {
  for (Given& g : given) g.data.store(nullptr, std::memory_order_relaxed);
}

IssuedOutput* take_issued() {
  Table& t = *g_table;
  const std::lock_guard<std::mutex> lock(t.mutex);
  const size_t used = t.used.load(std::memory_order_relaxed);
  if (t.free.size() > kWaiting || used == kBlock * kBlocks) {
    if (t.free.empty()) return nullptr;
    IssuedOutput* record = t.free.front();
    t.free.pop_front();
    record->clear();
    return record;
  }
  std::atomic<IssuedOutput*>& block = t.blocks[used / kBlock];
  if (!block.load(std::memory_order_relaxed)) block.store(new IssuedOutput[kBlock], std::memory_order_release);
  t.used.store(used + 1, std::memory_order_release);
  return block.load(std::memory_order_relaxed) + used % kBlock;
}

void give_back_issued(IssuedOutput* record) {
  if (!record) return;
  Table& t = *g_table;
  const std::lock_guard<std::mutex> lock(t.mutex);
  try {
    t.free.push_back(record);
  } catch (const std::bad_alloc&) {  // it is not used again
  }
}

bool is_issued(const mrt_tensor& tensor) {
  const Table& t = *g_table;
  const size_t blocks = (t.used.load(std::memory_order_acquire) + kBlock - 1) / kBlock;
  const uintptr_t shape = reinterpret_cast<uintptr_t>(tensor.shape);
  for (size_t i = 0; i < blocks; ++i) {
    const IssuedOutput* block = t.blocks[i].load(std::memory_order_acquire);
    const uintptr_t begin = reinterpret_cast<uintptr_t>(block);
    if (shape < begin || shape >= begin + kBlock * sizeof(IssuedOutput)) continue;
    const IssuedOutput& record = block[(shape - begin) / sizeof(IssuedOutput)];
    for (const IssuedOutput::Given& g : record.given) {
      if (tensor.data == g.data.load(std::memory_order_relaxed) &&
          tensor.bytes == g.bytes.load(std::memory_order_relaxed))
        return true;
    }
    return false;
  }
  return false;
}

}  // namespace mrt
