// A model.mrt as a table of sections over mapped or borrowed bytes. FORMAT.md is the format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "artifact/locked_bytes.h"
#include "base/status.h"

namespace mrt {

enum class SectionKind : uint32_t {
  manifest = 1,
  plan = 2,
  weights = 3,
  code = 4,
  signature = 5,
  object = 6,
  device = 7,
  encryption = 8
};
constexpr uint32_t kEncryptedFlag = 2;

struct Section {
  SectionKind kind;
  uint32_t flags;
  char target[33];
  size_t offset;
  size_t size;
  uint8_t hash[32];
};

// Bytes of a file: mapped (and unmapped at the end), copied, or borrowed (and given back through `release`).
class FileBytes {
 public:
  FileBytes() = default;
  FileBytes(const void* data, size_t size, void (*release)(void*), void* user)
      : data_(static_cast<const uint8_t*>(data)), size_(size), release_(release), user_(user) {}
  FileBytes(FileBytes&& other) noexcept { swap(other); }
  FileBytes& operator=(FileBytes&& other) noexcept {
    swap(other);
    return *this;
  }
  ~FileBytes();
  static Status map(const char* path, FileBytes* out);
  // A copy in the library's own memory, which nobody can change.
  static Status copy(const char* path, FileBytes* out);

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  // Whether the bytes are those of a file that others may write to; then whether one did since it was mapped.
  bool mapped() const { return kind_ == Kind::mapped; }
  bool borrowed() const { return kind_ == Kind::borrowed; }
  Status check_unchanged(const char* name) const { return mapped() ? check_stamp(fd_, name) : Status(); }
  // Hands the pages of a mapped file back to the system. Whoever reads them at the same time finds them again.
  void let_go() const;

 private:
  enum class Kind : uint8_t { borrowed, mapped, copied };
  struct Stamp {
    int64_t size = 0, seconds = 0, nanoseconds = 0;  // of the last modification
  };
  static Status open_file(const char* path, int* fd, Stamp* stamp);
  static bool stamp_of(int fd, Stamp* out);
  Status check_stamp(int fd, const char* name) const;
  void swap(FileBytes& other);
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  Kind kind_ = Kind::borrowed;
  int fd_ = -1;  // of a mapped file: a path may come to name another
  Stamp stamp_;
  void (*release_)(void*) = nullptr;
  void* user_ = nullptr;
};

class Container {
 public:
  // Checks header, table and bounds, and the table's hash. `name` stands in messages ("model.mrt").
  // Only of a new container: one that was refused is of no use.
  Status parse(FileBytes bytes, const std::string& name) {
    bytes_ = std::move(bytes);
    name_ = name;
    MRT_TRY(parse_header());
    return find_sections();
  }
  // Reads manifest and plan, checking their hashes, and decrypts them and the weights of an encrypted file with the
  // options' callbacks. `whole`: the weights are hashed, too. What is signed was looked at before.
  Status open(const mrt_load_options& options, bool whole);

  const std::string& name() const { return name_; }
  const std::string& manifest() const { return manifest_; }
  // The plan's bytes: a copy, so that what was hashed is what is read, whoever writes to the mapped file.
  const std::vector<uint8_t>& plan() const { return plan_; }
  const uint8_t* weights() const { return encrypted() ? opened_.data() : weights_ ? data(*weights_) : nullptr; }
  size_t weights_size() const { return weights_size_; }
  const Section* signature() const { return signature_; }
  const std::vector<Section>& sections() const { return sections_; }
  // As the file holds it: what was encrypted is not decrypted.
  const uint8_t* data(const Section& section) const { return bytes_.data() + section.offset; }
  const FileBytes& bytes() const { return bytes_; }
  bool encrypted() const { return encryption_ != nullptr; }
  // A section of an encrypted file, decrypted into memory of its own. Every chunk is checked; `hashed`: the section,
  // too.
  Status decrypt(const Section& section, const mrt_load_options& options, bool hashed, LockedBytes* out) const;
  // An encrypted file is not looked at again once all of it is open.
  void forget_file() {
    if (encrypted() && !bytes_.borrowed()) bytes_ = FileBytes();
  }

  // The best code section for this CPU, null if the file holds none; an error names the levels if none fits.
  Status choose_code(const Section** out) const;
  Status check_hash(const Section& section, const void* data) const;
  // A section's bytes, decrypted and checked: plain_size(section) of them.
  Status read_small(const Section& section, const mrt_load_options& options, uint8_t* out) const;
  // The hashes of what may be in a file and nothing of a load reads: a signature covers that, too.
  Status check_unread() const;
  // Header and table with the fields that depend on the signature set to zero: what a signature is made over.
  std::vector<uint8_t> signed_bytes() const;

 private:
  Status parse_header();
  Status parse_entry(uint32_t index);
  Status find_sections();
  Status check_encryption(const mrt_load_options& options);
  Status decrypt_into(const Section& section, const mrt_load_options& options, bool hashed, uint8_t* out) const;
  Status damaged(const char* what) const;
  Status wrong_hash(const char* what, const char* kind, const char* where) const;

  FileBytes bytes_;
  std::string name_;
  std::vector<uint8_t> table_;  // a copy of header and table: what was signed is what is read
  std::vector<Section> sections_;
  const Section* manifest_section_ = nullptr;
  const Section* plan_section_ = nullptr;
  const Section* weights_ = nullptr;
  size_t weights_size_ = 0;
  const Section* signature_ = nullptr;
  const Section* encryption_ = nullptr;
  uint8_t bound_[32] = {};  // what every chunk is bound to: the hash of the table as it was before it was encrypted
  LockedBytes opened_;      // the weights of an encrypted file
  std::string manifest_;
  std::vector<uint8_t> plan_;
};

const char* section_name(SectionKind kind);
// The bytes that a section holds, which is fewer than it takes if it is encrypted.
size_t plain_size(const Section& section);

}  // namespace mrt
