#include "artifact/container.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "artifact/utf8.h"
#include "base/cpu.h"
#include "base/hooks.h"
#include "base/sha256.h"

namespace mrt {
namespace {

constexpr uint8_t kMagic[8] = {0x89, 'M', 'R', 'T', 0x0D, 0x0A, 0x1A, 0x0A};
constexpr uint32_t kFormatVersion = 1;
constexpr size_t kHeaderBytes = 64, kEntryBytes = 96;
constexpr size_t kBoundHeaderBytes = 12;  // magic and format version
constexpr uint32_t kMaxSections = 256;
constexpr size_t kSectionAlignment = 64, kWeightsAlignment = 65536;
constexpr size_t kSmallWeights = size_t{1} << 20, kSmallWeightsAlignment = 4096;  // fewer bytes, and where those begin
constexpr size_t kChunk = size_t{1} << 20, kTag = 16;                             // of encrypted sections

template <typename T>
T load(const uint8_t* p) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian and read as it is");
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

bool all_zero(const uint8_t* p, size_t n) {
  for (size_t i = 0; i < n; ++i)
    if (p[i] != 0) return false;
  return true;
}

}  // namespace

const char* section_name(SectionKind kind) {
  switch (kind) {
    case SectionKind::manifest:
      return "manifest";
    case SectionKind::plan:
      return "plan";
    case SectionKind::weights:
      return "weights";
    case SectionKind::code:
      return "code";
    case SectionKind::signature:
      return "signature";
    case SectionKind::object:
      return "object";
    case SectionKind::device:
      return "device";
    case SectionKind::encryption:
      return "encryption";
  }
  return "unknown";
}

size_t plain_size(const Section& s) {
  if (!(s.flags & kEncryptedFlag)) return s.size;
  return s.size - (s.size + kChunk + kTag - 1) / (kChunk + kTag) * kTag;
}

// ---- FileBytes ----

FileBytes::~FileBytes() {
  if (kind_ == Kind::mapped) munmap(const_cast<uint8_t*>(data_), size_);
  if (kind_ == Kind::copied) mrt::release(const_cast<uint8_t*>(data_), size_);
  if (fd_ >= 0) close(fd_);
  if (release_) release_(user_);
}

void FileBytes::swap(FileBytes& other) {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(kind_, other.kind_);
  std::swap(fd_, other.fd_);
  std::swap(stamp_, other.stamp_);
  std::swap(release_, other.release_);
  std::swap(user_, other.user_);
}

bool FileBytes::stamp_of(int fd, Stamp* out) {
  struct stat info;
  if (fstat(fd, &info) != 0) return false;
#if defined(__APPLE__)
  const timespec& modified = info.st_mtimespec;
#else
  const timespec& modified = info.st_mtim;
#endif
  *out = {static_cast<int64_t>(info.st_size), static_cast<int64_t>(modified.tv_sec),
          static_cast<int64_t>(modified.tv_nsec)};
  return true;
}

Status FileBytes::open_file(const char* path, int* fd, Stamp* stamp) {
  // Not blocking: a pipe by that name is refused below instead of waited for.
  *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (*fd < 0) return fail(MRT_ERROR_IO, "'%s' cannot be opened: %s", path, std::strerror(errno));
  struct stat info;
  if (fstat(*fd, &info) != 0 || !stamp_of(*fd, stamp))
    return fail(MRT_ERROR_IO, "'%s' cannot be read: %s", path, std::strerror(errno));
  if (!S_ISREG(info.st_mode))
    return fail(MRT_ERROR_IO, "'%s' is %s, expected a model.mrt file", path,
                S_ISDIR(info.st_mode) ? "a directory" : "not a regular file");
  if (stamp->size == 0) return fail(MRT_ERROR_FORMAT, "'%s' is empty, expected a model.mrt file", path);
  return Status();
}

Status FileBytes::map(const char* path, FileBytes* out) {
  FileBytes file;
  MRT_TRY(open_file(path, &file.fd_, &file.stamp_));
  const size_t size = static_cast<size_t>(file.stamp_.size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd_, 0);
  if (data == MAP_FAILED) return fail(MRT_ERROR_IO, "'%s' cannot be mapped: %s", path, std::strerror(errno));
  file.data_ = static_cast<const uint8_t*>(data);
  file.size_ = size;
  file.kind_ = Kind::mapped;
  *out = std::move(file);
  return Status();
}

Status FileBytes::copy(const char* path, FileBytes* out) {
  FileBytes source, file;  // closes the descriptor at the end
  MRT_TRY(open_file(path, &source.fd_, &source.stamp_));
  const size_t size = static_cast<size_t>(source.stamp_.size);
  uint8_t* data = static_cast<uint8_t*>(allocate(size, kWeightsAlignment));
  if (!data) return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for a copy of the %zu bytes of '%s'", size, path);
  file.data_ = data;
  file.size_ = size;
  file.kind_ = Kind::copied;
  constexpr size_t kPiece = size_t{1} << 30;
  for (size_t at = 0; at < size;) {
    const ssize_t n = pread(source.fd_, data + at, size - at < kPiece ? size - at : kPiece, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(MRT_ERROR_IO, "'%s' cannot be read: %s", path, std::strerror(errno));
    if (n == 0) break;  // it became shorter
    at += static_cast<size_t>(n);
  }
  MRT_TRY(source.check_stamp(source.fd_, path));
  *out = std::move(file);
  return Status();
}

void FileBytes::let_go() const {
  if (mapped()) (void)madvise(const_cast<uint8_t*>(data_), size_, MADV_DONTNEED);
}

Status FileBytes::check_stamp(int fd, const char* name) const {
  Stamp now;
  if (!stamp_of(fd, &now)) return fail(MRT_ERROR_CHANGED, "'%s' cannot be looked at: %s", name, std::strerror(errno));
  if (now.size == stamp_.size && now.seconds == stamp_.seconds && now.nanoseconds == stamp_.nanoseconds)
    return Status();
  return fail(MRT_ERROR_CHANGED,
              "'%s' was changed since it was opened (%lld bytes then, %lld now), so that its weights are not what was "
              "loaded: load it again; load a copy (copy=True, the load option copy), or replace files by renaming "
              "another over them",
              name, static_cast<long long>(stamp_.size), static_cast<long long>(now.size));
}

// ---- Container ----

Status Container::damaged(const char* what) const {
  return fail(MRT_ERROR_FORMAT,
              "'%s' is not a valid model.mrt: %s; it is truncated or damaged, copy or compile it again", name_.c_str(),
              what);
}

Status Container::parse_header() {
  const uint8_t* p = bytes_.data();
  const size_t size = bytes_.size();
  if (size < sizeof(kMagic) || std::memcmp(p, kMagic, sizeof(kMagic)) != 0)
    return fail(MRT_ERROR_FORMAT, "'%s' is not a model.mrt file: it does not begin with the format's magic bytes",
                name_.c_str());
  if (size < kHeaderBytes) return damaged("the header is cut off");
  table_.resize(kHeaderBytes);
  std::memcpy(table_.data(), p, kHeaderBytes);
  p = table_.data();
  const uint32_t version = load<uint32_t>(p + 8);
  if (version > kFormatVersion)
    return fail(MRT_ERROR_VERSION,
                "'%s' has format version %u, this runtime (%d.%d.%d) reads up to %u; use a newer one", name_.c_str(),
                version, MRT_VERSION_MAJOR, MRT_VERSION_MINOR, MRT_VERSION_PATCH, kFormatVersion);
  if (version == 0) return damaged("the format version is 0");
  const uint32_t count = load<uint32_t>(p + 12);
  if (count == 0 || count > kMaxSections) return damaged("the section count is not between 1 and 256");
  if (load<uint64_t>(p + 16) != size) return damaged("the file size differs from the one in the header");
  if (!all_zero(p + 56, 8)) return damaged("reserved bytes of the header are not zero");
  if (size - kHeaderBytes < count * kEntryBytes) return damaged("the section table is cut off");
  table_.resize(kHeaderBytes + count * kEntryBytes);
  std::memcpy(table_.data() + kHeaderBytes, bytes_.data() + kHeaderBytes, count * kEntryBytes);
  p = table_.data();
  uint8_t hash[32];
  sha256(p + kHeaderBytes, count * kEntryBytes, hash);
  if (std::memcmp(hash, p + 24, 32) != 0) return wrong_hash("section table", "", "header");
  sections_.reserve(count);
  for (uint32_t i = 0; i < count; ++i) MRT_TRY(parse_entry(i));
  const size_t end = sections_.back().offset + sections_.back().size;
  if (!all_zero(bytes_.data() + end, size - end)) return damaged("what follows the last section is not zero");
  return Status();
}

Status Container::parse_entry(uint32_t index) {
  const uint8_t* p = table_.data() + kHeaderBytes + index * kEntryBytes;
  Section s{};
  const uint32_t kind = load<uint32_t>(p);
  s.flags = load<uint32_t>(p + 4);
  std::memcpy(s.target, p + 8, 32);
  const uint64_t offset = load<uint64_t>(p + 40), size = load<uint64_t>(p + 48);
  std::memcpy(s.hash, p + 56, 32);
  const size_t target_length = std::strlen(s.target);
  if (!all_zero(p + 8 + target_length, 32 - target_length) ||
      !is_text(reinterpret_cast<const uint8_t*>(s.target), target_length))
    return damaged("a section's target is not NUL-padded text");
  if (!all_zero(p + 88, 8)) return damaged("reserved bytes of the section table are not zero");
  if (offset > bytes_.size() || size > bytes_.size() - offset) return damaged("a section lies outside the file");
  const size_t previous_end = sections_.empty() ? table_.size() : sections_.back().offset + sections_.back().size;
  if (offset < previous_end) return damaged("two sections overlap or are out of order");
  if (!all_zero(bytes_.data() + previous_end, offset - previous_end))
    return damaged("a gap between sections is not zero");
  if (offset % kSectionAlignment != 0) return damaged("a section does not begin on a multiple of 64");
  if (kind == 0 || kind > static_cast<uint32_t>(SectionKind::encryption)) {
    if ((s.flags & 1u) == 0)
      return fail(MRT_ERROR_VERSION, "'%s' has a section of kind %u that this runtime does not know; use a newer one",
                  name_.c_str(), kind);
  }
  s.kind = static_cast<SectionKind>(kind);
  if (s.kind == SectionKind::weights &&
      offset % (size < kSmallWeights ? kSmallWeightsAlignment : kWeightsAlignment) != 0)
    return damaged(size < kSmallWeights ? "the weights section does not begin on a multiple of 4096"
                                        : "the weights section does not begin on a multiple of 65536");
  s.offset = static_cast<size_t>(offset);
  s.size = static_cast<size_t>(size);
  sections_.push_back(s);
  return Status();
}

Status Container::find_sections() {
  for (const Section& s : sections_) {
    const Section** slot = s.kind == SectionKind::manifest     ? &manifest_section_
                           : s.kind == SectionKind::plan       ? &plan_section_
                           : s.kind == SectionKind::weights    ? &weights_
                           : s.kind == SectionKind::signature  ? &signature_
                           : s.kind == SectionKind::encryption ? &encryption_
                                                               : nullptr;
    if (slot) {
      if (*slot) return damaged("a section that may occur once occurs twice");
      *slot = &s;
    }
    if (s.kind == SectionKind::code || s.kind == SectionKind::object)
      for (const Section* other = sections_.data(); other != &s; ++other)
        if (other->kind == s.kind && std::strcmp(other->target, s.target) == 0)
          return damaged("two code sections are for the same target");
  }
  if (!manifest_section_ || !plan_section_) return damaged("the manifest or the plan is missing");
  // All of a file is encrypted, or nothing of it, but for what says who may read it and who vouches for it.
  for (const Section& s : sections_) {
    if (s.kind > SectionKind::encryption) continue;
    const bool expected = encryption_ && s.kind != SectionKind::signature && s.kind != SectionKind::encryption;
    const size_t last = s.size % (kChunk + kTag);
    if (((s.flags & kEncryptedFlag) != 0) != expected || (expected && (s.size == 0 || (last != 0 && last < kTag))))
      return damaged("a section is not encrypted as others are");
  }
  return Status();
}

Status Container::open(const mrt_load_options& options, bool whole) {
  MRT_TRY(check_encryption(options));
  manifest_.resize(plain_size(*manifest_section_));
  MRT_TRY(read_small(*manifest_section_, options, reinterpret_cast<uint8_t*>(&manifest_[0])));
  if (!is_text(reinterpret_cast<const uint8_t*>(manifest_.data()), manifest_.size()) || manifest_.empty() ||
      manifest_.front() != '{')
    return damaged("the manifest is not a JSON object in UTF-8");
  plan_.resize(plain_size(*plan_section_));
  MRT_TRY(read_small(*plan_section_, options, plan_.data()));
  if (!weights_) return Status();
  weights_size_ = plain_size(*weights_);
  if (encrypted()) return decrypt(*weights_, options, whole, &opened_);
  return whole ? check_hash(*weights_, data(*weights_)) : Status();
}

// What was hashed is what is read, whoever writes to the mapped file.
Status Container::read_small(const Section& section, const mrt_load_options& options, uint8_t* out) const {
  if (encrypted()) return decrypt_into(section, options, true, out);
  if (section.size != 0) std::memcpy(out, data(section), section.size);
  return check_hash(section, out);
}

// ---- encryption ----

Status Container::check_encryption(const mrt_load_options& options) {
  const char* file = name_.c_str();
  if (!encryption_)
    return options.open_chunk ? fail(MRT_ERROR_INVALID_ARGUMENT, "'%s' is not encrypted; give no key", file) : Status();
  if (options.resident_bytes != 0)
    return fail(MRT_ERROR_INVALID_ARGUMENT, "'%s' is encrypted, and takes no resident_bytes", file);
  if (options.open_chunk) MRT_TRY(check_hash(*encryption_, data(*encryption_)));
  if (!options.open_chunk ||
      (options.unwrap_key && options.unwrap_key(options.key_user, data(*encryption_), encryption_->size) != 1))
    return fail(MRT_ERROR_KEY, "'%s' is encrypted; load it with %s", file,
                options.open_chunk ? "another key" : "a key (key=, or open_chunk)");
  Sha256 hash;
  hash.update(table_.data(), kBoundHeaderBytes);
  for (size_t i = 0; i < sections_.size(); ++i) {
    if (sections_[i].kind == SectionKind::signature) continue;
    uint8_t entry[kEntryBytes];
    std::memcpy(entry, table_.data() + kHeaderBytes + i * kEntryBytes, kEntryBytes);
    std::memset(entry + 40, 0, 8);
    if (sections_[i].flags & kEncryptedFlag) std::memset(entry + 56, 0, 32);
    hash.update(entry, kEntryBytes);
  }
  hash.finish(bound_);
  return Status();
}

Status Container::decrypt(const Section& section, const mrt_load_options& options, bool hashed,
                          LockedBytes* out) const {
  const size_t size = plain_size(section);
  if (size != 0 && !out->reserve(size, options.unlocked == 0))
    return fail(
        MRT_ERROR_OUT_OF_MEMORY,
        "'%s' is encrypted, and %zu bytes cannot be locked for it: %s; raise the limit (ulimit -l), or load it with "
        "lock=False (unlocked)",
        name_.c_str(), size, std::strerror(errno));
  return decrypt_into(section, options, hashed, out->data());
}

Status Container::decrypt_into(const Section& section, const mrt_load_options& options, bool hashed,
                               uint8_t* out) const {
  Sha256 hash;
  const bool kept = hashed || bytes_.mapped();  // what is hashed, and looked at twice to be decrypted, stays the same
  const std::unique_ptr<uint8_t[]> copy(kept ? new uint8_t[std::min(section.size, kChunk + kTag)] : nullptr);
  const uint8_t* at = data(section);
  const uint32_t number = static_cast<uint32_t>(&section - sections_.data());
  uint8_t nonce[12] = {};
  std::memcpy(nonce, &number, 4);
  size_t left = section.size;
  for (uint32_t chunk = 0; left > 0; ++chunk) {
    const size_t size = std::min(left, kChunk + kTag);
    left -= size;
    const uint8_t* sealed = at;
    if (kept) {
      std::memcpy(copy.get(), at, size);
      sealed = copy.get();
    }
    if (hashed) hash.update(sealed, size);
    std::memcpy(nonce + 4, &chunk, 4);
    nonce[11] = left == 0;
    if (options.open_chunk(options.key_user, nonce, bound_, sizeof(bound_), sealed, size, out) != 1)
      return fail(
          MRT_ERROR_HASH,
          "'%s': chunk %u of the %s section cannot be decrypted; it was changed, cut, or is of another place, file "
          "or key",
          name_.c_str(), chunk + 1, section_name(section.kind));
    at += size;
    out += size - kTag;
  }
  if (!hashed) return Status();
  uint8_t digest[32];
  hash.finish(digest);
  return std::memcmp(digest, section.hash, 32) == 0
             ? Status()
             : wrong_hash(section_name(section.kind), " section", "section table");
}

Status Container::check_hash(const Section& section, const void* data) const {
  uint8_t hash[32];
  sha256(data, section.size, hash);
  return std::memcmp(hash, section.hash, 32) == 0 ? Status()
                                                  : wrong_hash(section_name(section.kind), " section", "section table");
}

Status Container::check_unread() const {
  for (const Section& s : sections_)
    if (s.kind == SectionKind::code || s.kind == SectionKind::object || s.kind == SectionKind::device ||
        s.kind > SectionKind::encryption)
      MRT_TRY(check_hash(s, data(s)));
  return Status();
}

Status Container::wrong_hash(const char* what, const char* kind, const char* where) const {
  return fail(MRT_ERROR_HASH, "'%s': the SHA-256 of the %s%s differs from the %s; the file was changed or damaged",
              name_.c_str(), what, kind, where);
}

Status Container::choose_code(const Section** out) const {
  *out = nullptr;
  int best = 0;
  std::string targets;
  for (const Section& s : sections_) {
    if (s.kind != SectionKind::code) continue;
    targets += (targets.empty() ? "" : ", ") + std::string(s.target);
    const int rank = cpu_target_rank(s.target);
    if (rank > best) {
      best = rank;
      *out = &s;
    }
  }
  if (targets.empty() || *out) return Status();
  return fail(MRT_ERROR_TARGET, "'%s' was compiled for %s, this CPU is %s; compile it with --target %s", name_.c_str(),
              targets.c_str(), cpu_level(), cpu_level());
}

std::vector<uint8_t> Container::signed_bytes() const {
  std::vector<uint8_t> copy = table_;
  std::memset(copy.data() + 24, 0, 32);
  for (size_t i = 0; i < sections_.size(); ++i)
    if (sections_[i].kind == SectionKind::signature)
      std::memset(copy.data() + kHeaderBytes + i * kEntryBytes + 56, 0, 32);
  return copy;
}

}  // namespace mrt
