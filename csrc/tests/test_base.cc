// SHA-256, the thread pool, memory planning.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "base/cpu.h"
#include "base/sha256.h"
#include "base/thread_pool.h"
#include "runtime/memory_plan.h"
#include "tests/check.h"

using namespace mrt;

namespace {

std::string hex(const uint8_t hash[32]) {
  std::string text;
  char digits[3];
  for (int i = 0; i < 32; ++i) {
    std::snprintf(digits, sizeof(digits), "%02x", hash[i]);
    text += digits;
  }
  return text;
}

std::string sha256_of(const std::string& text) {
  uint8_t hash[32];
  sha256(text.data(), text.size(), hash);
  return hex(hash);
}

}  // namespace

// The examples of FIPS 180-4 and RFC 6234.
TEST(sha256, known_answers) {
  CHECK_EQ(sha256_of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK_EQ(sha256_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK_EQ(sha256_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
           "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK_EQ(sha256_of(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(sha256, pieces_equal_the_whole) {
  std::vector<uint8_t> data(1000);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 31);
  uint8_t whole[32], parts[32];
  for (const size_t size : {0, 1, 55, 56, 63, 64, 65, 127, 128, 1000}) {
    sha256(data.data(), size, whole);
    Sha256 hash;
    for (size_t at = 0; at < size;) {
      const size_t n = std::min<size_t>(size - at, 1 + at % 70);
      hash.update(data.data() + at, n);
      at += n;
    }
    hash.finish(parts);
    CHECK(std::memcmp(whole, parts, 32) == 0);
  }
}

#if defined(__x86_64__)
TEST(sha256, instructions_agree_with_portable) {
  if (!allows(cpu_features(), static_cast<Isa>(kSha))) return;
  std::vector<uint8_t> data(64 * 7);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 197 + 3);
  uint32_t a[8] = {1, 2, 3, 4, 5, 6, 7, 8}, b[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  sha256_fold_portable(a, data.data(), 7);
  kSha256FoldShani(b, data.data(), 7);
  CHECK(std::memcmp(a, b, sizeof(a)) == 0);
}
#endif

TEST(pool, every_index_once) {
  for (const int32_t count : {0, 1, 2, 7, 100, 10000}) {
    std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
    ThreadPool::process()->parallel(count, 8, [&](int32_t, int32_t i) { seen[static_cast<size_t>(i)].fetch_add(1); });
    int wrong = 0;
    for (const auto& s : seen) wrong += s.load() != 1;
    CHECK_EQ(wrong, 0);
  }
}

// A worker's number is below the threads asked for, and no two tasks with the same number run at once.
TEST(pool, a_worker_is_one_thread_at_a_time) {
  for (const int32_t threads : {1, 2, 3, 8}) {
    std::atomic<int> inside[8] = {}, shared{0}, out_of_range{0};
    ThreadPool::process()->parallel(500, threads, [&](int32_t worker, int32_t) {
      if (worker < 0 || worker >= threads) return void(out_of_range.fetch_add(1));
      if (inside[worker].fetch_add(1) != 0) shared.fetch_add(1);
      std::this_thread::yield();
      inside[worker].fetch_sub(1);
    });
    CHECK_EQ(shared.load(), 0);
    CHECK_EQ(out_of_range.load(), 0);
  }
}

// One thread that is held up loses what it has not begun to the others.
TEST(pool, what_is_left_goes_to_idle_threads) {
  std::atomic<int> done{0}, before_first{0};
  const auto late = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  ThreadPool::process()->parallel(64, 2, [&](int32_t, int32_t index) {
    while (index == 0 && cpu_count() > 1 && done.load() < 63 && std::chrono::steady_clock::now() < late)
      std::this_thread::yield();
    if (index == 0) before_first = done.load();
    done.fetch_add(1);
  });
  CHECK_EQ(done.load(), 64);
  CHECK_EQ(before_first.load(), cpu_count() > 1 ? 63 : 0);
}

TEST(pool, nested_runs_on_the_caller) {
  std::atomic<int> total{0};
  ThreadPool::process()->parallel(4, 4, [&](int32_t, int32_t) {
    const auto self = std::this_thread::get_id();
    ThreadPool::process()->parallel(10, 4, [&](int32_t, int32_t) {
      CHECK(std::this_thread::get_id() == self);
      total.fetch_add(1);
    });
  });
  CHECK_EQ(total.load(), 40);
}

TEST(pool, many_callers) {
  std::atomic<int> total{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&] {
      for (int i = 0; i < 300; ++i)
        ThreadPool::process()->parallel(5, 4, [&](int32_t, int32_t) { total.fetch_add(1); });
    });
  for (std::thread& t : callers) t.join();
  CHECK_EQ(total.load(), 4 * 300 * 5);
}

TEST(pool, survives_fork) {
  std::atomic<int> total{0};
  const auto work = [&] { ThreadPool::process()->parallel(100, 4, [&](int32_t, int32_t) { total.fetch_add(1); }); };
  work();
  const pid_t child = fork();
  if (child == 0) {
    total = 0;
    for (int i = 0; i < 20; ++i) work();
    _exit(total.load() == 2000 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  work();
  CHECK_EQ(total.load(), 200);
}

// Whatever the lifetimes, two buffers that live at the same time do not overlap, and the total holds all.
TEST(memory_plan, no_overlap) {
  std::mt19937 random(7);
  for (const size_t n : {size_t{1}, size_t{2}, size_t{50}, size_t{400}, size_t{5000}}) {
    std::vector<Buffer> buffers(n);
    for (Buffer& b : buffers) {
      b.bytes = random() % 5000;
      b.first = random() % 200;
      b.last = b.first + random() % 20;
    }
    const size_t total = plan_memory(&buffers);
    size_t sum = 0;
    int overlaps = 0;
    for (size_t i = 0; i < n; ++i) {
      const Buffer& a = buffers[i];
      sum += (a.bytes + 63) / 64 * 64;
      CHECK(a.offset % 64 == 0 && a.offset + a.bytes <= total);
      for (size_t k = 0; k < i && n < 1000; ++k) {
        const Buffer& b = buffers[k];
        const bool live = a.first <= b.last && b.first <= a.last;
        overlaps += live && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
      }
      for (size_t k = i + 1; k < std::min(n, i + 50) && n >= 1000; ++k) {
        const Buffer& b = buffers[k];
        const bool live = a.first <= b.last && b.first <= a.last;
        overlaps += live && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
      }
    }
    CHECK_EQ(overlaps, 0);
    CHECK(total <= sum);
    if (n >= 50) CHECK(total < sum / 2);
  }
}

TEST(memory_plan, chain_needs_two) {
  for (const uint32_t n : {10u, 100000u}) {
    std::vector<Buffer> buffers(n);
    for (uint32_t i = 0; i < n; ++i) buffers[i] = {1000, i, i + 1, 0};
    CHECK_EQ(plan_memory(&buffers), size_t{2 * 1024});
  }
}

// Each lives to the end: more pairs than are looked at one by one.
TEST(memory_plan, all_at_a_time) {
  std::vector<Buffer> buffers(3000);
  for (uint32_t i = 0; i < 3000; ++i) buffers[i] = {1000, i, 3000, 0};
  CHECK_EQ(plan_memory(&buffers), size_t{3000 * 1024});
}
