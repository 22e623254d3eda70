// Expands plan.inc once with the macros that the includer defined, then forgets them. Included several times.
#include "artifact/plan.inc"
#undef MRT_RECORD
#undef MRT_FIELD
#undef MRT_LIST
#undef MRT_REC
#undef MRT_RECS
#undef MRT_END
