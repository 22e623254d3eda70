#include "artifact/plan.h"

#include <cstring>
#include <type_traits>

#include "artifact/utf8.h"

namespace mrt {
namespace plan {
namespace {

// ---- the smallest encoding of each record, so that a count can be refused before anything is allocated
// ----------------

template <typename T>
constexpr size_t smallest() {
  return sizeof(T);
}
template <>
constexpr size_t smallest<str>() {
  return 4;
}
#define MRT_RECORD(Name)              \
  template <>                         \
  constexpr size_t smallest<Name>() { \
    return 0
#define MRT_FIELD(type, name) +smallest<type>()
#define MRT_LIST(type, name) +4
#define MRT_REC(Record, name) +smallest<Record>()
#define MRT_RECS(Record, name) +4
#define MRT_END(Name) \
  ;                   \
  }
#include "artifact/plan_expand.h"

// ---- reading
// ---------------------------------------------------------------------------------------------------------

// Reads until the first thing that does not fit; then it stays failed and remembers where.
class Cursor {
 public:
  Cursor(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool failed() const { return failed_; }
  size_t left() const { return size_ - at_; }
  size_t at() const { return at_; }
  const char* what() const { return what_; }

  bool take(void* out, size_t bytes, const char* what) {
    if (failed_ || left() < bytes) return refuse(what);
    std::memcpy(out, data_ + at_, bytes);
    at_ += bytes;
    return true;
  }
  bool count(u32* out, size_t element_bytes, const char* what) {
    return take(out, 4, what) && (*out <= left() / element_bytes || refuse(what));
  }
  bool text(str* out, const char* what) {
    u32 length = 0;
    if (!count(&length, 1, what)) return false;
    if (!is_text(data_ + at_, length)) return refuse(what);
    out->assign(reinterpret_cast<const char*>(data_ + at_), length);
    at_ += length;
    return true;
  }

 private:
  bool refuse(const char* what) {
    if (!failed_) what_ = what;
    failed_ = true;
    return false;
  }
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
  bool failed_ = false;
  const char* what_ = "";
};

template <typename T>
bool read(Cursor& c, T* out, const char* what) {
  static_assert(std::is_arithmetic<T>::value, "records have readers of their own");
  return c.take(out, sizeof(T), what);
}
bool read(Cursor& c, str* out, const char* what) { return c.text(out, what); }

template <typename T>
bool read_list(Cursor& c, std::vector<T>* out, const char* what) {
  u32 n = 0;
  if (!c.count(&n, smallest<T>(), what)) return false;
  out->resize(n);
  return n == 0 || c.take(out->data(), n * sizeof(T), what);
}

template <typename R>
bool read_records(Cursor& c, std::vector<R>* out, const char* what);

#define MRT_RECORD(Name)                       \
  bool read(Cursor& c, Name* r, const char*) { \
    bool ok = true;
#define MRT_FIELD(type, name) ok = ok && read(c, &r->name, #name);
#define MRT_LIST(type, name) ok = ok && read_list(c, &r->name, #name);
#define MRT_REC(Record, name) ok = ok && read(c, &r->name, #name);
#define MRT_RECS(Record, name) ok = ok && read_records(c, &r->name, #name);
#define MRT_END(Name) \
  return ok;          \
  }
#include "artifact/plan_expand.h"

template <typename R>
bool read_records(Cursor& c, std::vector<R>* out, const char* what) {
  u32 n = 0;
  if (!c.count(&n, smallest<R>(), what)) return false;
  out->resize(n);
  for (R& record : *out)
    if (!read(c, &record, what)) return false;
  return true;
}

// ---- writing
// ---------------------------------------------------------------------------------------------------------

using Bytes = std::vector<uint8_t>;

template <typename T>
void write(Bytes& b, const T& value) {
  static_assert(std::is_arithmetic<T>::value, "records have writers of their own");
  const uint8_t* p = reinterpret_cast<const uint8_t*>(&value);
  b.insert(b.end(), p, p + sizeof(T));
}
void write(Bytes& b, const str& text) {
  write(b, static_cast<u32>(text.size()));
  b.insert(b.end(), text.begin(), text.end());
}
template <typename T>
void write_list(Bytes& b, const std::vector<T>& list) {
  write(b, static_cast<u32>(list.size()));
  for (const T& value : list) write(b, value);
}
template <typename R>
void write_records(Bytes& b, const std::vector<R>& records);

#define MRT_RECORD(Name) void write(Bytes& b, const Name& r) {
#define MRT_FIELD(type, name) write(b, r.name);
#define MRT_LIST(type, name) write_list(b, r.name);
#define MRT_REC(Record, name) write(b, r.name);
#define MRT_RECS(Record, name) write_records(b, r.name);
#define MRT_END(Name) }
#include "artifact/plan_expand.h"

template <typename R>
void write_records(Bytes& b, const std::vector<R>& records) {
  write(b, static_cast<u32>(records.size()));
  for (const R& record : records) write(b, record);
}

}  // namespace

Status decode(const uint8_t* data, size_t size, Plan* out) {
  u32 version = 0;
  if (size < 4) return fail(MRT_ERROR_FORMAT, "the plan section is cut off");
  std::memcpy(&version, data, 4);
  if (version > kPlanVersion)
    return fail(MRT_ERROR_VERSION, "the plan has version %u, this runtime reads up to %u; use a newer one", version,
                kPlanVersion);
  if (version == 0) return fail(MRT_ERROR_FORMAT, "the plan section is damaged: its version is 0");
  Cursor cursor(data, size);
  Plan plan;
  if (!read(cursor, &plan, "plan"))
    return fail(MRT_ERROR_FORMAT, "the plan section is damaged at byte %zu of %zu: '%s' does not fit or is not text",
                cursor.at(), size, cursor.what());
  if (cursor.left() != 0)
    return fail(MRT_ERROR_FORMAT, "the plan section is damaged: %zu bytes follow its end", cursor.left());
  *out = std::move(plan);
  return Status();
}

std::vector<uint8_t> encode(const Plan& plan) {
  Bytes bytes;
  write(bytes, plan);
  return bytes;
}

}  // namespace plan
}  // namespace mrt
