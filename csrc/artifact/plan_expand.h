// Expands plan.inc once with the macros that the includer defined, then forgets them. Included several times.
// A test expands records of its own: it names their file in MRT_PLAN_INC.
#ifndef MRT_PLAN_INC
#define MRT_PLAN_INC "artifact/plan.inc"
#endif
#ifndef MRT_PLAN_VERSION
#define MRT_PLAN_VERSION(version)
#endif
#ifndef MRT_ENUM
#define MRT_ENUM(Name)
#define MRT_VALUE(since, number, name)
#define MRT_END_ENUM(Name)
#endif
#ifndef MRT_RECORD
#define MRT_RECORD(Name)
#define MRT_FIELD(since, type, name, initial)
#define MRT_LIST(since, type, name)
#define MRT_RECS(since, Record, name)
#define MRT_END(Name)
#endif

#include MRT_PLAN_INC

#undef MRT_PLAN_VERSION
#undef MRT_ENUM
#undef MRT_VALUE
#undef MRT_END_ENUM
#undef MRT_RECORD
#undef MRT_FIELD
#undef MRT_LIST
#undef MRT_RECS
#undef MRT_END
