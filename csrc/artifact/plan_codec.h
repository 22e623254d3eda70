// The codec of plan.inc's records. No guard: included in an anonymous namespace inside the one that has the records.
using records::Bytes;
using records::Cursor;
using records::read;
using records::smallest;
using records::write;

#define MRT_ENUM(Name)                                                 \
  [[maybe_unused]] bool read(Cursor& c, Name* out, const char* name) { \
    u8 number = 0;                                                     \
    if (!c.take(&number, 1, name)) return false;                       \
    *out = static_cast<Name>(number);                                  \
    switch (number) {
#define MRT_VALUE(since, number, name) \
  case number:                         \
    if (since <= c.version())          \
      return true;                     \
    else                               \
      break;
#define MRT_END_ENUM(Name)                                 \
  }                                                        \
  return c.refuse(name, "is no " #Name " of its version"); \
  }
#include "artifact/plan_expand.h"

// The smallest encoding of each record in a plan of this version: with empty text and lists. So a count can be refused
// before anything is allocated for it.
#define MRT_RECORD(Name)                                \
  constexpr size_t smallest(const Name*, u32 version) { \
    size_t bytes = 0;
#define MRT_FIELD(since, type, name, initial) \
  if (since <= version) bytes += smallest(static_cast<const type*>(nullptr), version);
#define MRT_LIST(since, type, name) \
  if (since <= version) bytes += 4;
#define MRT_RECS(since, Record, name) \
  if (since <= version) bytes += 4;
#define MRT_END(Name) \
  return bytes;       \
  }
#include "artifact/plan_expand.h"

template <typename T>
bool read_list(Cursor& c, std::vector<T>* out, const char* name) {
  u32 n = 0;
  if (!c.count(&n, sizeof(T), name)) return false;
  out->resize(n);
  return n == 0 || c.take(out->data(), n * sizeof(T), name);
}

template <typename R>
bool read_records(Cursor& c, std::vector<R>* out, const char* name);

#define MRT_RECORD(Name)                                        \
  [[maybe_unused]] bool read(Cursor& c, Name* r, const char*) { \
    bool ok = true;
#define MRT_FIELD(since, type, name, initial) \
  if (since <= c.version()) ok = ok && read(c, &r->name, #name);
#define MRT_LIST(since, type, name) \
  if (since <= c.version()) ok = ok && read_list(c, &r->name, #name);
#define MRT_RECS(since, Record, name) \
  if (since <= c.version()) ok = ok && read_records(c, &r->name, #name);
#define MRT_END(Name) \
  return ok;          \
  }
#include "artifact/plan_expand.h"

template <typename R>
bool read_records(Cursor& c, std::vector<R>* out, const char* name) {
  u32 n = 0;
  if (!c.count(&n, smallest(static_cast<const R*>(nullptr), c.version()), name)) return false;
  out->resize(n);
  for (R& record : *out)
    if (!read(c, &record, name)) return false;
  return true;
}

template <typename T>
void write_list(Bytes& b, const std::vector<T>& list) {
  write(b, static_cast<u32>(list.size()));
  for (const T& value : list) write(b, value);
}
template <typename R>
void write_records(Bytes& b, const std::vector<R>& records);

#define MRT_RECORD(Name) [[maybe_unused]] void write(Bytes& b, const Name& r) {
#define MRT_FIELD(since, type, name, initial) write(b, r.name);
#define MRT_LIST(since, type, name) write_list(b, r.name);
#define MRT_RECS(since, Record, name) write_records(b, r.name);
#define MRT_END(Name) }
#include "artifact/plan_expand.h"

template <typename R>
void write_records(Bytes& b, const std::vector<R>& records) {
  write(b, static_cast<u32>(records.size()));
  for (const R& record : records) write(b, record);
}

Status decode_plan(const uint8_t* data, size_t size, Plan* out) {
  u32 version = 0;
  if (size < 4) return fail(MRT_ERROR_FORMAT, "the plan section is cut off");
  std::memcpy(&version, data, 4);
  if (version > kPlanVersion)
    return fail(MRT_ERROR_VERSION, "the plan has version %u, this runtime reads up to %u; use a newer one", version,
                kPlanVersion);
  if (version == 0) return fail(MRT_ERROR_FORMAT, "the plan section is damaged: its version is 0");
  Cursor cursor(data, size, version);
  Plan plan;
  if (!read(cursor, &plan, "plan"))
    return fail(MRT_ERROR_FORMAT, "the plan section is damaged at byte %zu of %zu: '%s' %s", cursor.at(), size,
                cursor.field(), cursor.fault());
  if (cursor.left() != 0)
    return fail(MRT_ERROR_FORMAT, "the plan section is damaged: %zu bytes follow its end", cursor.left());
  *out = std::move(plan);
  return Status();
}
