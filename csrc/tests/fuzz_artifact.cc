// Fuzz target: whatever bytes a file has, loading refuses it or gives a program, and running that program ends with a
// result or a sentence. Hashes are made right first, so that mutations reach what lies behind them.
//
// As a libFuzzer target: fuzz_artifact CORPUS. Standalone (any compiler): fuzz_artifact SECONDS SEED [FILE...] mutates
// built-in plans and the given files; SECONDS 0 instead gives each byte of each plan each of a few values. With
// MRT_FUZZ_SAVE=PATH the file of each round is written there first, so that the one that crashed is kept.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "kernels/kernel.h"
#include "maas_rt.h"
#include "runtime/executor.h"
#include "tests/file_builder.h"

using namespace mrt;
using namespace mrt::test;
using plan::ExprOp;
using plan::StepKind;
using plan::Storage;

namespace {

template <typename T>
T get(const std::vector<uint8_t>& file, size_t at) {
  T value;
  std::memcpy(&value, file.data() + at, sizeof(T));
  return value;
}

// Sets file size and all hashes to what they should be, where sections lie inside the file.
void repair(std::vector<uint8_t>* file) {
  if (file->size() < 64) return;
  const uint64_t size = file->size();
  std::memcpy(file->data() + 16, &size, 8);
  const uint32_t count = get<uint32_t>(*file, 12);
  if (count > 256 || file->size() < 64 + 96 * static_cast<size_t>(count)) return;
  for (uint32_t i = 0; i < count; ++i) {
    const size_t entry = 64 + 96 * static_cast<size_t>(i);
    const uint64_t offset = get<uint64_t>(*file, entry + 40), bytes = get<uint64_t>(*file, entry + 48);
    if (offset <= size && bytes <= size - offset) sha256(file->data() + offset, bytes, file->data() + entry + 56);
  }
  rehash_table(file);
}

// Runs every entry once with small inputs; large programs are left alone. The status of the last run.
mrt_status run_all(mrt_program* program, int64_t deadline_ns) {
  mrt_status status = MRT_OK;
  mrt_session_options options = {sizeof(options), 1, 0, 0};
  mrt_session* session = nullptr;
  mrt_state* state = nullptr;
  if ((status = mrt_session_create(program, &options, &session)) != MRT_OK) return status;
  (void)mrt_state_create(program, &state);
  static std::vector<uint64_t> memory((1 << 20) / 8, 0x0101010101010101u);
  for (int32_t e = 0; e < mrt_program_entry_count(program); ++e) {
    const int32_t n = mrt_program_input_count(program, e), m = mrt_program_output_count(program, e);
    if (n > 64 || m > 64) continue;
    std::vector<std::vector<int64_t>> shapes(static_cast<size_t>(n));
    std::vector<mrt_tensor> in(static_cast<size_t>(n)), out(static_cast<size_t>(m));
    bool small = true;
    for (int32_t i = 0; i < n; ++i) {
      mrt_value_info info;
      if (mrt_program_input_info(program, e, i, &info) != MRT_OK) continue;
      int64_t bytes = (info.dtype.bits + 7) / 8;
      for (int32_t d = 0; d < info.ndim; ++d) {
        const int64_t extent = info.dims[d].extent >= 0 ? info.dims[d].extent : std::max<int64_t>(info.dims[d].min, 3);
        shapes[static_cast<size_t>(i)].push_back(extent);
        small = small && extent < 1 << 20 && (bytes *= extent) < 1 << 20;
      }
      in[static_cast<size_t>(i)] = {memory.data(), info.dtype, info.ndim, shapes[static_cast<size_t>(i)].data(),
                                    nullptr,       0};
    }
    mrt_run_options run = {};
    run.struct_size = sizeof(run);
    run.entry = e;
    run.deadline_ns = deadline_ns;
    run.state = state;
    if (small) status = mrt_session_run(session, in.data(), in.size(), out.data(), out.size(), &run);
  }
  mrt_state_free(state);
  mrt_session_free(session);
  return status;
}

// Kernels of a hostile plan may ask for terabytes; a small limit makes that the refusal that it should be.
void* limited_alloc(void*, size_t bytes, size_t alignment) {
  return bytes > (size_t{64} << 20) ? nullptr
                                    : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
void limited_free(void*, void* p, size_t) { std::free(p); }

// 1 if the file is a program, which was run; 2 if it ran to its end.
int one(const uint8_t* data, size_t size, bool in_time = true) {
  static const bool hooked = [] {
    mrt_hooks hooks = {};
    hooks.struct_size = sizeof(hooks);
    hooks.alloc = limited_alloc;
    hooks.free = limited_free;
    return mrt_set_hooks(&hooks) == MRT_OK;
  }();
  if (!hooked) std::abort();
  std::vector<uint8_t> file(data, data + size);
  repair(&file);
  const AlignedBytes bytes(file);
  mrt_program* program = nullptr;
  // Code is not loaded: what is in it is a program, whose behaviour is its author's.
  mrt_load_options options = {sizeof(options), MRT_CODE_REFUSE, MRT_VERIFY_DEFAULT, nullptr, nullptr};
  const mrt_status status = mrt_program_load_memory(bytes.data(), bytes.size(), &options, nullptr, nullptr, &program);
  if (status != MRT_OK) {
    if (*mrt_last_error() == '\0') std::abort();  // every refusal says why
    return 0;
  }
  const int ran = run_all(program, in_time ? monotonic_ns() + 50000000 : 0) == MRT_OK;
  mrt_program_free(program);
  return 1 + ran;
}

}  // namespace

#if !defined(MRT_FUZZ_STANDALONE)
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  one(data, size);
  return 0;
}
#else
namespace {

using Bytes = std::vector<uint8_t>;

plan::Attr text(const std::string& key, const std::string& value) {
  plan::Attr a;
  a.key = key;
  a.text = value;
  return a;
}

// Seeds that touch every kind of step, and kernels that read much of their shapes.
Bytes movement_seed() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n", 1, 8);
  const uint32_t c = p.constant("c", {2, 4}, {1, 2, 3, 4, 5, 6, 7, 8});
  const uint32_t index = p.constant("index", {2}, std::vector<int64_t>{0, 1}, MRT_INT, 64);
  const uint32_t four = p.fixed(4);
  const uint32_t more = p.expr(ExprOp::add, p.of(n), p.fixed(2));
  const uint32_t x = p.value("x", Storage::input, {p.of(n), four});
  const uint32_t joined = p.value("joined", Storage::arena, {more, four});
  const uint32_t turned = p.value("turned", Storage::arena, {four, more});
  const uint32_t soft = p.value("soft", Storage::arena, {four, more});
  const uint32_t rows = p.value("rows", Storage::arena, {p.fixed(2), more});
  const uint32_t flat = p.view("flat", rows, {p.expr(ExprOp::mul, p.fixed(2), more)}, p.fixed(0));
  const uint32_t part = p.value("part", Storage::arena, {p.fixed(1), p.fixed(2)});
  const uint32_t b = p.block("main");
  p.concat(b, "join", {x, c}, joined);
  p.step(b, StepKind::kernel, "turn", "transpose", {joined}, {turned}).attrs.push_back(ints("perm", {1, 0}));
  p.step(b, StepKind::kernel, "soft", "softmax_f32", {turned}, {soft});
  p.step(b, StepKind::kernel, "rows", "gather", {soft, index}, {rows}).attrs.push_back(ints("axis", {0}));
  plan::Step& slice = p.step(b, StepKind::kernel, "part", "slice", {rows}, {part});
  slice.attrs = {ints("starts", {1, 0}), ints("steps", {1, 2})};
  p.entry("main", {x}, {flat, part}, b);
  return p.file();
}

Bytes image_seed() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n", 1, 4);
  const uint32_t x = p.value("x", Storage::input, {p.of(n), p.fixed(6), p.fixed(5), p.fixed(3)});
  const uint32_t pooled = p.value("pooled", Storage::arena, {p.of(n), p.fixed(3), p.fixed(3), p.fixed(3)});
  const uint32_t padded = p.value("padded", Storage::arena, {p.of(n), p.fixed(5), p.fixed(4), p.fixed(3)});
  const uint32_t large = p.value("large", Storage::arena, {p.of(n), p.fixed(10), p.fixed(8), p.fixed(3)});
  const uint32_t mean = p.value("mean", Storage::arena, {p.of(n), p.fixed(3)});
  const uint32_t scale = p.constant("scale", {3}, {1, 2, 3});
  const uint32_t y = p.value("y", Storage::arena, {p.of(n), p.fixed(3)});
  const uint32_t z = p.value("z", Storage::arena, {p.of(n), p.of(n)});
  const uint32_t b = p.block("main");
  plan::Step& pool = p.step(b, StepKind::kernel, "pool", "pool2d_f32", {x}, {pooled});
  pool.attrs = {text("mode", "max"), ints("kernel", {2, 2}), ints("strides", {2, 2}), ints("pads", {0, 0, 0, 1})};
  p.step(b, StepKind::kernel, "pad", "pad", {pooled}, {padded}).attrs.push_back(ints("before", {0, 1, 0, 0}));
  plan::Step& resize = p.step(b, StepKind::kernel, "resize", "resize2d_f32", {padded}, {large});
  resize.attrs = {text("mode", "linear"), text("coordinates", "half_pixel")};
  p.step(b, StepKind::kernel, "mean", "global_avg_pool_f32", {large}, {mean});
  p.step(b, StepKind::kernel, "norm", "layer_norm_f32", {mean, scale}, {y}).attrs.push_back([] {
    plan::Attr a;
    a.key = "epsilon";
    a.floats = {1e-5};
    return a;
  }());
  p.step(b, StepKind::kernel, "square", "matmul_f32", {y, y}, {z}).attrs.push_back(ints("trans_b", {1}));
  p.entry("main", {x}, {z, y}, b);
  return p.file();
}

// What stands for an absent argument.
constexpr uint32_t kNone = ~uint32_t{0};

// A constant of one number in a packing of a contract.
template <typename T>
uint32_t packed(PlanBuilder* p, const plan::Step& step, const std::string& name, const std::vector<int64_t>& shape,
                T number, uint8_t code) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  std::vector<T> dense(static_cast<size_t>(count), number);
  std::vector<mrt_attr> attrs;
  for (const plan::Attr& a : step.attrs)
    attrs.push_back({a.key.c_str(), a.ints.empty() ? nullptr : a.ints.data(), nullptr,
                     a.ints.empty() ? a.text.c_str() : nullptr, a.ints.size()});
  const mrt_tensor weight = tensor(dense.data(), shape, code);
  const char *contract = step.target.c_str(), *packing = step.packing.c_str();
  size_t bytes = 0;
  Bytes result;
  if (mrt_kernel_packed_bytes(contract, packing, &weight, attrs.data(), attrs.size(), &bytes) == MRT_OK)
    result.resize(bytes);
  if (mrt_kernel_pack(contract, packing, &weight, attrs.data(), attrs.size(), result.data(), bytes) != MRT_OK)
    std::printf("%s: %s\n", contract, mrt_last_error());
  return p->add_constant(name, shape, result.data(), result.size(), code, 8 * sizeof(T));
}

// outs = contract(in, packed weights of one number, more), the newest packing.
void weighted(PlanBuilder* p, uint32_t block, const std::string& contract, uint32_t in,
              const std::vector<std::vector<int64_t>>& weights, const std::vector<uint32_t>& more,
              const std::vector<uint32_t>& outs, const std::vector<plan::Attr>& attrs) {
  const Contract& stated = *find_operator(contract.c_str())->contract;
  plan::Step step;
  step.target = contract;
  step.packing = std::string(stated.packings, std::strcspn(stated.packings, " "));
  step.attrs = attrs;
  std::vector<uint32_t> args = {in};
  for (size_t i = 0; i < weights.size(); ++i) {
    const std::string name = contract + std::to_string(i);
    args.push_back(stated.input(1).dtypes != kF32 ? packed<int8_t>(p, step, name, weights[i], 3, MRT_INT)
                                                  : packed<float>(p, step, name, weights[i], 0.5f, MRT_FLOAT));
  }
  args.insert(args.end(), more.begin(), more.end());
  plan::Step& s = p->step(block, StepKind::kernel, contract, contract, args, outs);
  s.packing = step.packing;
  s.attrs = attrs;
  for (plan::Arg& arg : s.args)
    if (arg.index == kNone) arg = {plan::ArgKind::absent, 0};
}

Bytes gemm_seed() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n", 1, 8);
  const uint32_t bias = p.constant("bias", {7}, std::vector<float>(7, 1.0f));
  const uint32_t x = p.value("x", Storage::input, {p.of(n), p.fixed(5)});
  const uint32_t y = p.value("y", Storage::arena, {p.of(n), p.fixed(7)});
  const uint32_t b = p.block("main");
  weighted(&p, b, "gemm_f32", x, {{5, 7}}, {bias}, {y}, {ints("k", {5}), ints("n", {7}), text("act", "relu")});
  p.entry("main", {x}, {y}, b);
  return p.file();
}

Bytes convolution_seed() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n", 1, 3);
  const auto image = [&](const char* name, int64_t h, int64_t w, int64_t c, Storage storage) {
    return p.value(name, storage, {p.of(n), p.fixed(h), p.fixed(w), p.fixed(c)});
  };
  const uint32_t x = image("x", 6, 7, 3, Storage::input), a = image("a", 6, 7, 5, Storage::arena);
  const uint32_t e = image("e", 6, 7, 5, Storage::arena);
  const uint32_t d = image("d", 3, 4, 5, Storage::arena), y = image("y", 6, 8, 2, Storage::arena);
  const uint32_t b = p.block("main");
  weighted(&p, b, "conv2d_f32", x, {{5, 3, 3, 3}}, {}, {a},
           {ints("kernel", {3, 3}), ints("channels", {3, 5}), ints("pads", {1, 1, 1, 1})});
  weighted(&p, b, "conv2d_winograd_f32", a, {{5, 5, 3, 3}}, {}, {e},
           {ints("kernel", {3, 3}), ints("channels", {5, 5}), ints("pads", {1, 1, 1, 1}), ints("tile", {2})});
  weighted(&p, b, "depthwise_conv2d_f32", e, {{5, 1, 3, 3}}, {}, {d},
           {ints("kernel", {3, 3}), ints("channels", {5, 5}), ints("groups", {5}), ints("pads", {1, 1, 1, 1}),
            ints("strides", {2, 2})});
  weighted(&p, b, "conv_transpose2d_f32", d, {{5, 2, 2, 2}}, {}, {y},
           {ints("kernel", {2, 2}), ints("channels", {5, 2}), ints("strides", {2, 2})});
  p.entry("main", {x}, {y}, b);
  return p.file();
}

Bytes sequence_seed() {
  PlanBuilder p;
  const uint32_t s = p.symbol("s", 1, 5);
  const uint32_t one = p.fixed(1), two = p.fixed(2), four = p.fixed(4);
  const uint32_t x = p.value("x", Storage::input, {p.of(s), two, four});
  const uint32_t y = p.value("y", Storage::arena, {p.of(s), two, four});
  const uint32_t hn = p.value("hn", Storage::arena, {one, two, four}),
                 cn = p.value("cn", Storage::arena, {one, two, four});
  const uint32_t g = p.value("g", Storage::arena, {p.of(s), two, four}),
                 gn = p.value("gn", Storage::arena, {one, two, four});
  const uint32_t q = p.view("q", g, {one, p.of(s), two, four}, p.fixed(0));
  const uint32_t t = p.value("t", Storage::arena, {one, p.of(s), two, four});
  const uint32_t r = p.value("r", Storage::arena, {one, p.of(s), two, four});
  const uint32_t b = p.block("main");
  weighted(&p, b, "lstm_f32", x, {{1, 16, 4}, {1, 16, 4}}, {}, {y, hn, cn},
           {ints("hidden", {4}), text("direction", "forward")});
  weighted(&p, b, "gru_f32", y, {{1, 12, 4}, {1, 12, 4}}, {}, {g, gn},
           {ints("hidden", {4}), text("direction", "reverse"), text("gates", "zrh")});
  p.step(b, StepKind::kernel, "attention", "attention_f32", {q, q, q}, {t}).attrs.push_back(ints("causal", {1}));
  p.step(b, StepKind::kernel, "norm", "rms_norm_f32", {t}, {r}).attrs.push_back([] {
    plan::Attr a;
    a.key = "epsilon";
    a.floats = {1e-5};
    return a;
  }());
  p.entry("main", {x}, {r, hn, cn, gn}, b);
  return p.file();
}

// Everything that works on 8 bits.
Bytes bytes_seed() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n", 1, 3);
  const auto image = [&](const char* name, int64_t h, int64_t w, int64_t c) {
    return p.value(name, Storage::arena, {p.of(n), p.fixed(h), p.fixed(w), p.fixed(c)}, MRT_UINT, 8);
  };
  const auto scales = [&](const char* name, int64_t count) {
    return p.constant(name, {count}, std::vector<float>(static_cast<size_t>(count), 0.5f));
  };
  const uint32_t x = p.value("x", Storage::input, {p.of(n), p.fixed(6), p.fixed(7), p.fixed(4)});
  const uint32_t scale = p.value("scale", Storage::arena, {}), zero = p.value("zero", Storage::arena, {}, MRT_UINT, 8);
  const uint32_t q = image("q", 6, 7, 4), c = image("c", 6, 7, 8), d = image("d", 6, 7, 8), m = image("m", 3, 3, 8);
  const uint32_t l = image("l", 3, 3, 8), flat = p.view("flat", l, {p.of(n), p.fixed(72)}, p.fixed(0), MRT_UINT, 8);
  const uint32_t left = p.view("left", l, {p.of(n), p.fixed(9), p.fixed(8)}, p.fixed(0), MRT_UINT, 8);
  const uint32_t right = p.view("right", l, {p.of(n), p.fixed(8), p.fixed(9)}, p.fixed(0), MRT_UINT, 8);
  const uint32_t table = p.constant("table", {256}, Bytes(256, 9), MRT_UINT, 8);
  const uint32_t w_zero = p.constant("w_zero", {5}, std::vector<int8_t>(5, 1), MRT_INT, 8);
  const uint32_t g = p.value("g", Storage::arena, {p.of(n), p.fixed(5)});
  const uint32_t y = p.value("y", Storage::arena, {p.of(n), p.fixed(9), p.fixed(9)});
  const uint32_t b = p.block("main");
  p.step(b, StepKind::kernel, "quantize", "dynamic_quantize_u8", {x}, {q, scale, zero});
  const std::vector<plan::Attr> pads = {ints("pads", {1, 1, 1, 1}), ints("kernel", {3, 3})};
  const auto with = [&](std::vector<plan::Attr> attrs) {
    attrs.insert(attrs.end(), pads.begin(), pads.end());
    return attrs;
  };
  weighted(&p, b, "conv2d_u8s8", q, {{8, 4, 3, 3}}, {scales("s0", 8), kNone, kNone, scale, zero}, {c},
           with({ints("channels", {4, 8})}));
  weighted(&p, b, "depthwise_conv2d_u8s8", c, {{8, 1, 3, 3}}, {scales("s1", 8)}, {d},
           with({ints("channels", {8, 8}), ints("groups", {8})}));
  plan::Step& pool = p.step(b, StepKind::kernel, "pool", "max_pool2d_u8", {d}, {m});
  pool.attrs = {ints("kernel", {2, 2}), ints("strides", {2, 2})};
  p.step(b, StepKind::kernel, "lookup", "lookup", {m, table}, {l});
  weighted(&p, b, "gemm_u8s8", flat, {{72, 5}}, {scales("s2", 5), scales("bias", 5), kNone, scale, zero, w_zero}, {g},
           {ints("k", {72}), ints("n", {5})});
  p.step(b, StepKind::kernel, "product", "matmul_u8", {left, right, scale, zero, zero}, {y});
  p.entry("main", {x}, {g, y}, b);
  return p.file();
}

// Weights of few bits, selections, an LSTM of 8 bits, attention to one tensor.
Bytes more_kernels_seed() {
  PlanBuilder p;
  const uint32_t s = p.symbol("s", 1, 5);
  const uint32_t one = p.fixed(1), two = p.fixed(2), four = p.fixed(4);
  const auto arena = [&](const char* name, const std::vector<uint32_t>& dims) {
    return p.value(name, Storage::arena, dims);
  };
  const uint32_t x = p.value("x", Storage::input, {p.of(s), two, four});
  const uint32_t y = arena("y", {p.of(s), two, four}), hn = arena("hn", {one, two, four}),
                 cn = arena("cn", {one, two, four});
  const uint32_t scale = p.constant("scale", {1, 16}, std::vector<float>(16, 0.1f));
  const uint32_t zeros = p.constant("zeros", {1, 16}, std::vector<int8_t>(16, 1), MRT_INT, 8);
  const uint32_t group_scale = p.constant("group_scale", {2, 12}, std::vector<float>(24, 0.1f));
  const uint32_t row_scale = p.constant("row_scale", {1, 12}, std::vector<float>(12, 0.1f));
  const uint32_t qkv = arena("qkv", {p.of(s), two, p.fixed(12)}),
                 rounded = arena("rounded", {p.of(s), two, p.fixed(12)}),
                 attended = arena("attended", {p.of(s), two, one, four});
  const uint32_t parts = p.view("parts", qkv, {p.of(s), two, p.fixed(3), one, four}, p.fixed(0));
  const uint32_t few = p.view("few", attended, {p.of(s), p.fixed(8)}, p.fixed(0));
  const uint32_t best = arena("best", {p.of(s), p.fixed(3)}), median = arena("median", {p.of(s), one});
  const uint32_t where = p.value("where", Storage::arena, {p.of(s), p.fixed(3)}, MRT_INT, 64);
  const uint32_t middle = p.value("middle", Storage::arena, {p.of(s), one}, MRT_INT, 32);
  const uint32_t b = p.block("main");
  weighted(&p, b, "lstm_u8s8", x, {{1, 16, 4}, {1, 16, 4}}, {kNone, kNone, kNone, kNone, scale, scale, zeros, zeros},
           {y, hn, cn}, {ints("hidden", {4})});
  weighted(&p, b, "gemm_f32q", y, {{4, 12}}, {group_scale}, {qkv},
           {ints("k", {4}), ints("n", {12}), ints("group", {2}), ints("bits", {4})});
  weighted(&p, b, "gemm_s8q4", y, {{4, 12}}, {row_scale}, {rounded}, {ints("k", {4}), ints("n", {12})});
  p.step(b, StepKind::kernel, "attention", "qkv_attention_f32", {parts}, {attended})
      .attrs.push_back(ints("causal", {1}));
  p.step(b, StepKind::kernel, "best", "top_k", {few}, {best, where}).attrs.push_back(ints("axis", {1}));
  p.step(b, StepKind::kernel, "median", "top_k", {few}, {median, middle}).attrs = {text("pick", "median"),
                                                                                   ints("largest", {0})};
  p.entry("main", {x}, {best, where, median, middle, hn, cn, rounded}, b);
  return p.file();
}

// Products with weights that are stored 2:4 and 2:3.
Bytes n_m_seed() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n", 1, 8);
  const uint32_t x = p.value("x", Storage::input, {p.of(n), p.fixed(12)});
  const uint32_t h = p.value("h", Storage::arena, {p.of(n), p.fixed(6)});
  const uint32_t y = p.value("y", Storage::arena, {p.of(n), p.fixed(3)});
  const auto weight = [&](const char* name, const std::vector<int64_t>& shape, const std::vector<int64_t>& stored,
                          uint8_t pair) {
    int64_t count = 1;
    for (const int64_t extent : stored) count *= extent;
    const uint32_t w = p.constant(name, shape, std::vector<float>(static_cast<size_t>(count), 0.5f));
    p.plan.values[w].encoding = plan::Encoding::n_m;
    const Bytes indices(static_cast<size_t>(count) / 4, static_cast<uint8_t>(pair * 0x11));
    p.plan.values[w].base = p.constant(std::string(name) + ".indices", stored, indices, MRT_UINT, 2);
    return w;
  };
  const uint32_t first = weight("first", {12, 6}, {3, 6, 2}, 0b1101),
                 second = weight("second", {6, 3}, {2, 3, 2}, 0b1000);
  const uint32_t b = p.block("main");
  plan::Step& one = p.step(b, StepKind::kernel, "one", "gemm_f32", {x, first}, {h});
  one.packing = "gemm_f32_nr16_v1";
  one.attrs = {ints("k", {12}), ints("n", {6})};
  plan::Step& two = p.step(b, StepKind::kernel, "two", "gemm_f32_sparse", {h, second}, {y});
  two.packing = "gemm_f32_sparse_v1";
  two.attrs = {ints("k", {6}), ints("n", {3})};
  p.entry("main", {x}, {y}, b);
  return p.file();
}

Bytes control_seed() {
  PlanBuilder p;
  const uint32_t k = p.symbol("k", 0, 20), n = p.symbol("n", 1, 10);
  const uint32_t five = p.constant("five", {}, std::vector<int64_t>{5}, MRT_INT, 64);
  const uint32_t yes = p.constant("yes", {}, Bytes{1}, MRT_BOOL, 8);
  const uint32_t x = p.value("x", Storage::input, {p.of(n)}), flag = p.value("flag", Storage::input, {}, MRT_BOOL, 8);
  const uint32_t total = p.value("total", Storage::state, {p.fixed(2)});
  p.plan.states.push_back({"total", total, -1});
  const uint32_t i = p.value("i", Storage::arena, {}, MRT_INT, 64), a = p.value("a", Storage::arena, {p.of(n)});
  const uint32_t last = p.value("last", Storage::arena, {p.of(n)});
  const uint32_t all = p.value("all", Storage::arena, {p.of(k), p.of(n)});
  const uint32_t sizes = p.value("sizes", Storage::arena, {p.fixed(2)}, MRT_INT, 64);
  const uint32_t picked = p.value("picked", Storage::arena, {p.of(n)});
  const uint32_t soft = p.value("soft", Storage::arena, {p.of(k), p.of(n)});
  const uint32_t head = p.view("head", all, {p.fixed(2)}, p.fixed(4));
  const uint32_t next = p.value("next", Storage::arena, {p.of(n)});
  const uint32_t main = p.block("main"), body = p.block("body"), then = p.block("then"), other = p.block("other");
  plan::Step& loop = p.step(main, StepKind::loop, "loop", "", {}, {last, all});
  loop.args = {{plan::ArgKind::absent, 0}, {plan::ArgKind::value, five}, {plan::ArgKind::value, x}};
  loop.blocks = {body};
  loop.binds = {k};
  p.plan.blocks[body].params = {i, a};
  p.step(body, StepKind::kernel, "soft", "softmax_f32", {a}, {next});
  p.plan.blocks[body].results = {yes, next, a};
  p.step(main, StepKind::branch, "if", "", {flag}, {picked}).blocks = {then, other};
  p.plan.blocks[then].results = {last};
  p.plan.blocks[other].results = {x};
  plan::Step& shape = p.step(main, StepKind::shape, "shape", "", {}, {sizes});
  shape.args = {{plan::ArgKind::expression, p.of(k)}, {plan::ArgKind::expression, p.of(n)}};
  p.step(main, StepKind::bind, "bind", "", {five}, {}).binds = {k};
  p.step(main, StepKind::kernel, "rows", "softmax_f32", {all}, {soft});
  p.step(main, StepKind::copy, "copy", "", {head}, {total});
  p.entry("main", {x, flag}, {picked, soft, sizes}, main);
  p.plan.entries[0].reads = p.plan.entries[0].writes = {0};
  return p.file();
}

Bytes random_seed() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n", 0, 200);
  const uint32_t x = p.value("x", Storage::input, {p.of(n)});
  const uint32_t draw = p.constant("draw", {}, std::vector<int64_t>{7}, MRT_INT, 64);
  const uint32_t seed = p.value("seed", Storage::seed, {p.fixed(1)}, MRT_UINT, 64);
  const uint32_t y = p.value("y", Storage::arena, {p.of(n), p.fixed(3)});
  const uint32_t bits = p.value("bits", Storage::arena, {p.of(n)}, MRT_UINT, 64);
  const uint32_t b = p.block("main");
  p.step(b, StepKind::kernel, "noise", "random_normal_f32", {seed, draw}, {y}).attrs = {ints("number", {3})};
  p.step(b, StepKind::kernel, "bits", "random_bits_u64", {seed}, {bits});
  p.entry("main", {x}, {y, bits, seed}, b);
  return p.file();
}

const int64_t kInteresting[] = {0,
                                1,
                                2,
                                3,
                                4,
                                7,
                                8,
                                15,
                                16,
                                63,
                                64,
                                127,
                                128,
                                255,
                                256,
                                65535,
                                65536,
                                INT32_MAX,
                                int64_t{1} << 31,
                                int64_t{1} << 32,
                                int64_t{1} << 46,
                                INT64_MAX,
                                INT64_MIN,
                                -1,
                                -2};

void mutate(Bytes* file, std::mt19937_64& random) {
  // Most of the time in what comes before the weights: header, table, plan.
  const size_t reach = random() % 8 ? std::min<size_t>(file->size(), 6000) : file->size();
  for (uint64_t k = 1 + random() % 4; k > 0 && reach > 16; --k) {
    const size_t at = random() % (reach - 8);
    const int64_t value = kInteresting[random() % (sizeof(kInteresting) / sizeof(kInteresting[0]))];
    switch (random() % 6) {
      case 0:
        (*file)[at] ^= static_cast<uint8_t>(1u << (random() % 8));
        break;
      case 1:
        (*file)[at] = static_cast<uint8_t>(random());
        break;
      case 2:
        std::memcpy(file->data() + at, &value, 4);
        break;
      case 3:
        std::memcpy(file->data() + at, &value, 8);
        break;
      case 4:
        (*file)[at] = static_cast<uint8_t>(value);
        break;
      default: {
        const size_t from = random() % (reach - 8), n = 1 + random() % 16;
        std::memmove(file->data() + at, file->data() + from, std::min(n, reach - std::max(at, from)));
      }
    }
  }
  if (random() % 64 == 0) file->resize(random() % file->size());
}

// Each byte of the plan section, each of a few values.
int every_byte(const std::vector<Bytes>& seeds) {
  uint64_t rounds = 0, loaded = 0;
  const char* save = std::getenv("MRT_FUZZ_SAVE");
  for (const Bytes& seed : seeds) {
    if (seed.size() < 64 + 2 * 96) continue;
    const size_t begin = get<uint64_t>(seed, 64 + 96 + 40), end = begin + get<uint64_t>(seed, 64 + 96 + 48);
    Bytes file(seed.begin(), seed.end());
    for (size_t at = begin; at < end && end <= seed.size(); ++at) {
      for (const int value : {0, 1, 2, 3, 4, 6, 8, 16, 64, 128, 255}) {
        file[at] = static_cast<uint8_t>(value);
        if (save)
          if (std::FILE* f = std::fopen(save, "wb")) {
            std::fwrite(file.data(), 1, file.size(), f);
            std::fclose(f);
          }
        loaded += one(file.data(), file.size()) > 0;
        ++rounds;
      }
      file[at] = seed[at];
    }
  }
  std::printf("%llu files, %llu of them loaded and ran\n", static_cast<unsigned long long>(rounds),
              static_cast<unsigned long long>(loaded));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  std::vector<Bytes> seeds = {movement_seed(), image_seed(),  gemm_seed(),  convolution_seed(),  sequence_seed(),
                              control_seed(),  random_seed(), bytes_seed(), more_kernels_seed(), n_m_seed()};
  const size_t built_in = seeds.size();
  for (int i = 3; i < argc; ++i) {
    Bytes bytes;
    if (std::FILE* f = std::fopen(argv[i], "rb")) {
      for (int c = 0; (c = std::fgetc(f)) != EOF;) bytes.push_back(static_cast<uint8_t>(c));
      std::fclose(f);
    }
    seeds.push_back(bytes);
  }
  for (size_t i = 0; i < built_in; ++i)
    if (one(seeds[i].data(), seeds[i].size(), false) != 2) {
      std::printf("seed %zu does not run: %s\n", i, mrt_last_error());
      return 1;
    }
  if (seconds <= 0) return every_byte(seeds);
  std::printf("fuzzing %.0f s from seed %llu\n", seconds, static_cast<unsigned long long>(seed));
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  uint64_t rounds = 0, loaded = 0;
  const char* save = std::getenv("MRT_FUZZ_SAVE");  // where the file of each round is written before it is tried
  for (; std::chrono::steady_clock::now() < end; ++rounds) {
    std::mt19937_64 random(seed * 1000003 + rounds);
    Bytes file = seeds[random() % seeds.size()];
    if (file.size() < 64) continue;
    mutate(&file, random);
    if (save)
      if (std::FILE* f = std::fopen(save, "wb")) {
        std::fwrite(file.data(), 1, file.size(), f);
        std::fclose(f);
      }
    loaded += one(file.data(), file.size()) > 0;
  }
  std::printf("%llu files, %llu of them loaded and ran\n", static_cast<unsigned long long>(rounds),
              static_cast<unsigned long long>(loaded));
  return 0;
}
#endif
