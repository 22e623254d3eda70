// Encrypted files: what the library asks of the host, in which order, and that nothing foreign is decrypted. The cipher
// is a toy; tests/native/test_trust.py has the real one.
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>

#include "base/sha256.h"
#include "tests/check.h"
#include "tests/file_builder.h"

using namespace mrt;
using namespace mrt::test;
using plan::Storage;

namespace {

using Bytes = std::vector<uint8_t>;
constexpr size_t kChunk = size_t{1} << 20, kTag = 16;

template <typename T>
T get(const Bytes& file, size_t at) {
  T value;
  std::memcpy(&value, file.data() + at, sizeof(value));
  return value;
}
template <typename T>
void put(Bytes* file, size_t at, T value) {
  std::memcpy(file->data() + at, &value, sizeof(value));
}

// Of one chunk: the tag is a hash of everything, and the stream begins with another.
struct Toy {
  uint8_t key = 7;

  void seal(const void* nonce, const uint8_t* bound, const uint8_t* plain, size_t size, uint8_t* out) const {
    tag(nonce, bound, plain, size, out + size);
    stream(nonce, plain, size, out);
  }
  bool open(const void* nonce, const void* bound, const uint8_t* sealed, size_t size, uint8_t* plain) const {
    uint8_t expected[kTag];
    stream(nonce, sealed, size - kTag, plain);
    tag(nonce, bound, plain, size - kTag, expected);
    return std::memcmp(expected, sealed + size - kTag, kTag) == 0;
  }

 private:
  void tag(const void* nonce, const void* bound, const uint8_t* plain, size_t size, uint8_t* out) const {
    Sha256 hash;
    uint8_t digest[32];
    hash.update(&key, 1);
    hash.update(nonce, 12);
    hash.update(bound, 32);
    hash.update(plain, size);
    hash.finish(digest);
    std::memcpy(out, digest, kTag);
  }
  void stream(const void* nonce, const uint8_t* in, size_t size, uint8_t* out) const {
    uint8_t seed[32], text[13];
    std::memcpy(text, nonce, 12);
    text[12] = key;
    sha256(text, sizeof(text), seed);
    for (size_t i = 0; i < size; ++i) out[i] = static_cast<uint8_t>(in[i] ^ seed[i % 31]);
  }
};

struct Entry {
  uint32_t kind, flags;
  std::string target;
  size_t offset, size;
};

Entry entry_of(const Bytes& file, size_t index) {
  const size_t at = 64 + 96 * index;
  return {get<uint32_t>(file, at), get<uint32_t>(file, at + 4),
          std::string(reinterpret_cast<const char*>(file.data() + at + 8)),
          static_cast<size_t>(get<uint64_t>(file, at + 40)), static_cast<size_t>(get<uint64_t>(file, at + 48))};
}

Bytes data_of(const Bytes& file, size_t index) {
  const Entry e = entry_of(file, index);
  return {file.begin() + static_cast<long>(e.offset), file.begin() + static_cast<long>(e.offset + e.size)};
}

// As FORMAT.md says: every section in chunks, an encryption section, and a signature where one is asked for.
Bytes encrypted(const Bytes& plain, bool signed_too = false, const std::string& header = "for whom it is") {
  const uint32_t count = get<uint32_t>(plain, 12);
  std::vector<RawSection> sections;
  for (uint32_t i = 0; i < count; ++i) {
    const Entry e = entry_of(plain, i);
    const size_t chunks = std::max<size_t>(1, (e.size + kChunk - 1) / kChunk);
    sections.push_back({e.kind, Bytes(e.size + kTag * chunks), e.target, 2});
  }
  sections.push_back({8, Bytes(header.begin(), header.end()), "", 0});
  const Bytes laid_out = write_container(sections);
  Sha256 hash;
  hash.update(laid_out.data(), 12);
  for (uint32_t i = 0; i <= count; ++i) {
    Bytes entry(laid_out.begin() + 64 + 96 * i, laid_out.begin() + 64 + 96 * (i + 1));
    std::memset(entry.data() + 40, 0, 8);
    if (i < count) std::memset(entry.data() + 56, 0, 32);
    hash.update(entry.data(), entry.size());
  }
  uint8_t bound[32];
  hash.finish(bound);
  for (uint32_t i = 0; i < count; ++i) {
    const Bytes data = data_of(plain, i);
    uint8_t* out = sections[i].bytes.data();
    for (size_t at = 0, chunk = 0; chunk == 0 || at < data.size(); at += kChunk, ++chunk) {
      const size_t size = std::min(kChunk, data.size() - at);
      uint8_t nonce[12] = {};
      std::memcpy(nonce, &i, 4);
      std::memcpy(nonce + 4, &chunk, 4);
      nonce[11] = at + kChunk >= data.size();
      Toy().seal(nonce, bound, data.data() + at, size, out);
      out += size + kTag;
    }
  }
  if (signed_too) sections.push_back({5, {'s', 'i', 'g'}, "", 0});
  return write_container(sections);
}

// Makes all hashes right again, as one who changes a file would.
void rehash(Bytes* file) {
  for (uint32_t i = 0; i < get<uint32_t>(*file, 12); ++i) {
    const Entry e = entry_of(*file, i);
    sha256(file->data() + e.offset, e.size, file->data() + 64 + 96 * i + 56);
  }
  rehash_table(file);
}

// c (three chunks of weights and some more) joined to x, then doubled by generated code.
constexpr int64_t kRows = 800 * 1024;
Bytes plain_file(int64_t rows = kRows) {
  PlanBuilder p;
  std::vector<float> values(static_cast<size_t>(rows));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 1000);
  const uint32_t c = p.constant("c", {rows}, values);
  const uint32_t x = p.value("x", Storage::input, {p.fixed(2)});
  const uint32_t joined = p.value("joined", Storage::arena, {p.fixed(rows + 2)});
  const uint32_t y = p.value("y", Storage::arena, {p.fixed(rows + 2)});
  const uint32_t b = p.block("main");
  p.concat(b, "join", {x, c}, joined);
  p.code(b, "add", {joined, joined}, {y});
  p.entry("main", {x}, {y}, b);
  p.with_code();
  return p.file();
}

struct Host {
  Toy toy;
  bool has_key = true, signature = true;
  int unwraps = 0, chunks = 0, checks = 0;
  std::string header;
  mrt_load_options options = {};
  mrt_program* program = nullptr;
  std::string message;

  Host() {
    options.struct_size = sizeof(options);
    options.key_user = options.signature_user = this;
    options.unlocked = 1;  // whatever this machine's limit
    options.unwrap_key = [](void* user, const void* section, size_t bytes) {
      Host* h = static_cast<Host*>(user);
      ++h->unwraps;
      h->header.assign(static_cast<const char*>(section), bytes);
      return int32_t{h->has_key};
    };
    options.open_chunk = [](void* user, const void* nonce, const void* bound, size_t bound_bytes, const void* sealed,
                            size_t bytes, void* plain) {
      Host* h = static_cast<Host*>(user);
      ++h->chunks;
      return int32_t{bound_bytes == 32 && h->toy.open(nonce, bound, static_cast<const uint8_t*>(sealed), bytes,
                                                      static_cast<uint8_t*>(plain))};
    };
  }
  ~Host() { mrt_program_free(program); }
  void sign() {
    options.check_signature = [](void* user, const void*, size_t, const void*, size_t) {
      Host* h = static_cast<Host*>(user);
      ++h->checks;
      return int32_t{h->signature};
    };
  }
  mrt_status load(const Bytes& file) {
    const AlignedBytes bytes(file);
    mrt_program_free(program);
    const mrt_status status = mrt_program_load_memory(bytes.data(), bytes.size(), &options, nullptr, nullptr, &program);
    message = mrt_last_error();
    return status;
  }
  mrt_status load_path(const Bytes& file, bool remove_before_run) {
    char path[] = "/tmp/mrt_test_XXXXXX";
    const int fd = mkstemp(path);
    CHECK(write(fd, file.data(), file.size()) == static_cast<ssize_t>(file.size()));
    mrt_program_free(program);
    const mrt_status status = mrt_program_load(path, &options, &program);
    message = mrt_last_error();
    if (remove_before_run) CHECK_EQ(ftruncate(fd, 0), 0);
    close(fd);
    unlink(path);
    return status;
  }
  void check_result(int64_t rows) {
    mrt_session* session = nullptr;
    CHECK_OK(mrt_session_create(program, nullptr, &session));
    float data[2] = {3, 4};
    const std::vector<int64_t> shape = {2};
    const mrt_tensor in = tensor(data, shape);
    mrt_tensor out = {};
    CHECK_OK(mrt_session_run(session, &in, 1, &out, 1, nullptr));
    const float* y = static_cast<const float*>(out.data);
    CHECK(y && y[0] == 6 && y[1] == 8 && y[2] == 0 && y[1001] == 2 * 999.f && y[rows + 1] == 2.f * ((rows - 1) % 1000));
    mrt_session_free(session);
  }
};

}  // namespace

TEST(encryption, a_file_runs_from_memory_that_was_decrypted) {
  const Bytes file = encrypted(plain_file());
  Host h;
  CHECK_OK(h.load_path(file, true));  // what becomes of the file then is nothing to the program
  h.check_result(kRows);
  CHECK_EQ(h.header, "for whom it is");
  CHECK_EQ(h.unwraps, 1);
  CHECK_EQ(h.chunks, 1 + 1 + 4 + 1);  // manifest, plan, weights, code
  h.options.copy = 1;
  CHECK_OK(h.load_path(file, false));
  h.check_result(kRows);
  h.options.unwrap_key = nullptr;  // a host that knows the content key
  CHECK_OK(h.load(file));
  CHECK(std::search(file.begin(), file.end(), "concat", "concat" + 6) == file.end());
}

TEST(encryption, decrypted_memory_is_locked_and_left_out_of_core_dumps) {
  const Bytes file = encrypted(plain_file());
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  Host h;
  h.options.unlocked = 0;
  const auto locked = [] {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
      if (line.compare(0, 6, "VmLck:") == 0) return std::stol(line.substr(6)) * 1024;
    return -1L;
  };
  // Under the address sanitizer mlock does nothing, and nothing can be said of it.
  static char probe[1];
  const long unlocked = locked();
  const bool locks = mlock(probe, sizeof(probe)) != 0 || locked() > unlocked;
  munlock(probe, sizeof(probe));
  const long before = locked();
  const mrt_status status = h.load(file);
  if (status == MRT_OK && locks) {
    CHECK(locked() - before >= kRows * 4);
    std::ifstream maps("/proc/self/smaps");
    std::stringstream text;
    text << maps.rdbuf();
    CHECK(text.str().find(" dd ") != std::string::npos);  // VM_DONTDUMP
    mrt_program_free(h.program);
    h.program = nullptr;
    CHECK_EQ(locked(), before);
  }
  // One that may lock no more says so, and what to do.
  const rlimit none = {0, limit.rlim_max};
  setrlimit(RLIMIT_MEMLOCK, &none);
  if (locks && (geteuid() != 0 || status != MRT_OK)) {  // root locks what it likes
    CHECK_EQ(h.load(file), MRT_ERROR_OUT_OF_MEMORY);
    CHECK_SAYS(h.message, "ulimit -l");
  }
  h.options.unlocked = 1;
  CHECK_OK(h.load(file));
  setrlimit(RLIMIT_MEMLOCK, &limit);
}

TEST(encryption, keys) {
  const Bytes plain = plain_file(10), file = encrypted(plain);
  Host h;
  CHECK_EQ(h.load(plain), MRT_ERROR_INVALID_ARGUMENT);
  CHECK_SAYS(h.message, "is not encrypted");
  h.options.resident_bytes = 1 << 20;
  CHECK_EQ(h.load_path(file, false), MRT_ERROR_INVALID_ARGUMENT);
  CHECK_SAYS(h.message, "is encrypted");
  h.options.resident_bytes = 0;
  h.has_key = false;
  CHECK_EQ(h.load(file), MRT_ERROR_KEY);
  CHECK_SAYS(h.message, "load it with another key");
  CHECK_EQ(h.chunks, 0);
  h.has_key = true;
  h.toy.key = 8;
  CHECK_EQ(h.load(file), MRT_ERROR_HASH);
  CHECK_SAYS(h.message, "chunk 1 of the manifest section cannot be decrypted");
  h.options.open_chunk = nullptr;
  CHECK_EQ(h.load(file), MRT_ERROR_KEY);
  CHECK_SAYS(h.message, "load it with a key");
}

TEST(encryption, the_signature_is_checked_before_anything_is_decrypted) {
  const Bytes file = encrypted(plain_file(10), true);
  Host h;
  h.sign();
  CHECK_OK(h.load(file));
  CHECK_OK(h.load(encrypted(plain_file(10), true)));
  h.signature = false;
  h.unwraps = h.chunks = 0;
  CHECK_EQ(h.load(file), MRT_ERROR_SIGNATURE);
  CHECK_EQ(h.unwraps + h.chunks, 0);
  CHECK_EQ(h.load(encrypted(plain_file(10))), MRT_ERROR_SIGNATURE);
  // It covers the weights as they are in the file, before the chunk's own tag.
  h.signature = true;
  Bytes changed = file;
  const Entry weights = entry_of(file, 2);
  CHECK_EQ(weights.kind, 3u);
  changed[weights.offset] ^= 1;
  CHECK_EQ(h.load(changed), MRT_ERROR_HASH);
}

// One who does not know the key may make all hashes right.
TEST(encryption, what_is_moved_cut_or_mixed_is_refused) {
  const Bytes file = encrypted(plain_file());
  const auto refused = [&](const std::function<void(Bytes*)>& change, mrt_status status, const char* says) {
    Bytes changed = file;
    change(&changed);
    rehash(&changed);
    Host h;
    CHECK_EQ(h.load(changed), status);
    CHECK_SAYS(h.message, says);
  };
  const Entry manifest = entry_of(file, 0), plan = entry_of(file, 1), weights = entry_of(file, 2);
  const auto set_size = [](Bytes* f, size_t index, size_t size) { put<uint64_t>(f, 64 + 96 * index + 48, size); };
  const size_t sealed = kChunk + kTag;
  refused([&](Bytes* f) { (*f)[weights.offset + sealed + 5] ^= 1; }, MRT_ERROR_HASH, "chunk 2 of the weights section");
  refused(
      [&](Bytes* f) {
        std::swap_ranges(f->begin() + static_cast<long>(weights.offset),
                         f->begin() + static_cast<long>(weights.offset + sealed),
                         f->begin() + static_cast<long>(weights.offset + sealed));
      },
      MRT_ERROR_HASH, "chunk 1 of the weights section");
  // Cut between chunks, the rest filled with zeros: the table's sizes are part of what each chunk is bound to.
  refused(
      [&](Bytes* f) {
        set_size(f, 2, 2 * sealed);
        std::fill(f->begin() + static_cast<long>(weights.offset + 2 * sealed),
                  f->begin() + static_cast<long>(weights.offset + weights.size), uint8_t{0});
      },
      MRT_ERROR_HASH, "chunk 1 of the manifest section");
  refused([&](Bytes* f) { set_size(f, 2, 3 * sealed + 15); }, MRT_ERROR_FORMAT, "valid");
  refused([&](Bytes* f) { set_size(f, 0, 0); }, MRT_ERROR_FORMAT, "valid");
  // Two sections that change places: entries, or their contents.
  refused(
      [&](Bytes* f) {
        put<uint32_t>(f, 64, 2);
        put<uint32_t>(f, 64 + 96, 1);
      },
      MRT_ERROR_HASH, "cannot be decrypted");
  if (manifest.size <= plan.size)
    refused(
        [&](Bytes* f) {
          std::copy_n(file.begin() + static_cast<long>(plan.offset), manifest.size,
                      f->begin() + static_cast<long>(manifest.offset));
        },
        MRT_ERROR_HASH, "cannot be decrypted");
  // Out of another file of the same key, for other readers, and plain among encrypted ones.
  const Bytes other = encrypted(plain_file(), false, "for whom it was");
  refused(
      [&](Bytes* f) {
        std::copy_n(other.begin() + static_cast<long>(manifest.offset), manifest.size,
                    f->begin() + static_cast<long>(manifest.offset));
      },
      MRT_ERROR_HASH, "chunk 1 of the manifest section");
  refused([&](Bytes* f) { f->back() ^= 1; }, MRT_ERROR_HASH, "cannot be decrypted");
  refused([&](Bytes* f) { put<uint32_t>(f, 64 + 96 + 4, 0); }, MRT_ERROR_FORMAT, "not encrypted as others are");
  refused([&](Bytes* f) { put<uint32_t>(f, 64 + 96 + 4, 6); }, MRT_ERROR_HASH, "cannot be decrypted");
  refused([&](Bytes* f) { put<uint32_t>(f, 12, get<uint32_t>(*f, 12) - 1); }, MRT_ERROR_FORMAT, "valid");
  Bytes plain = plain_file(10);
  put<uint32_t>(&plain, 64 + 4, 2);
  rehash(&plain);
  Host h;
  h.options.open_chunk = nullptr;
  CHECK_EQ(h.load(plain), MRT_ERROR_FORMAT);
}

TEST(encryption, every_bit_flip_is_refused) {
  Bytes file = encrypted(plain_file(10), true);
  Host h;
  h.sign();
  CHECK_OK(h.load(file));
  const Entry weights = entry_of(file, 2);
  const auto gap = [&](size_t at) {  // zeros between sections, checked one by one in the container's own tests
    for (uint32_t i = 0; i < get<uint32_t>(file, 12); ++i) {
      const Entry e = entry_of(file, i);
      if (at < 64 + 96 * get<uint32_t>(file, 12) || (at >= e.offset && at < e.offset + e.size)) return false;
    }
    return true;
  };
  size_t flipped = 0;
  for (size_t at = 0; at < file.size(); ++at) {
    if (gap(at) || (at > weights.offset + weights.size && at % 97 != 0)) continue;
    const uint8_t bit = static_cast<uint8_t>(1u << (at % 8));
    file[at] ^= bit;
    const mrt_status status = h.load(file);
    CHECK(status >= 100 && status < 200);
    file[at] ^= bit;
    ++flipped;
  }
  CHECK(flipped > 1000);
  CHECK_OK(h.load(file));
}
