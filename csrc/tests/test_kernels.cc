// Every kernel that this CPU runs gives what the reference gives, at sizes around its vectors and tiles. tests/kernels
// says more, in Python; this runs wherever the library does.
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "kernels/kernel.h"
#include "maas_rt.h"
#include "tests/check.h"

using namespace mrt;

namespace {

// A call of one contract: operands in its order, float32 but for a packed weight, and attributes.
class Call {
 public:
  explicit Call(const char* contract) : contract_(contract) {}

  Call& in(std::vector<int64_t> shape) {
    operands_.push_back({std::move(shape), {}, {}});
    Operand& o = operands_.back();
    o.floats.resize(static_cast<size_t>(count(o.shape)));
    std::uniform_real_distribution<float> number(-1.0f, 1.0f);
    for (float& x : o.floats) x = number(random_);
    return *this;
  }
  // The last operand as the contract packs it, with the attributes so far.
  Call& packed(const char* packing) {
    Operand& o = operands_.back();
    const mrt_tensor weight = tensor(o);
    size_t bytes = 0;
    const auto list = attributes();
    CHECK_OK(mrt_kernel_packed_bytes(contract_, packing, &weight, list.data(), list.size(), &bytes));
    std::vector<uint64_t> packed(bytes / 8 + 9);
    CHECK_OK(mrt_kernel_pack(contract_, packing, &weight, list.data(), list.size(), line(packed), bytes));
    o.packed = std::move(packed);
    o.shape = {static_cast<int64_t>(bytes)};
    return *this;
  }
  Call& absent() {
    operands_.push_back({{-1}, {}, {}});
    return *this;
  }
  Call& attr(const char* key, std::vector<int64_t> values) {
    ints_.push_back({key, std::move(values)});
    return *this;
  }
  Call& attr(const char* key, const char* text) {
    texts_.push_back({key, text});
    return *this;
  }

  // `depth`: terms of the longest sum.
  void gives(std::vector<int64_t> shape, int64_t depth) {
    const std::vector<float> want = run("reference", shape);
    double scale = 1e-3;
    for (const float x : want) scale = std::fmax(scale, std::fabs(static_cast<double>(x)));
    const double bound = 16 * 0x1p-23 * (1 + std::sqrt(static_cast<double>(depth))) * scale;
    for (const Kernel* k = find_operator(contract_)->kernels; k->name != nullptr; ++k) {
      if (!allows(cpu_features(), k->isa)) continue;
      const std::vector<float> have = run(isa_name(k->isa), shape);
      for (size_t i = 0; i < want.size(); ++i) {
        if (std::fabs(static_cast<double>(have[i]) - static_cast<double>(want[i])) <= bound) continue;
        CHECK_EQ(have[i], want[i]);
        std::printf("  element %zu of %s_%s\n", i, contract_, k->name);
        return;
      }
    }
  }

 private:
  struct Operand {
    std::vector<int64_t> shape;
    std::vector<float> floats;
    std::vector<uint64_t> packed;
  };
  static int64_t count(const std::vector<int64_t>& shape) {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    return n;
  }
  static void* line(std::vector<uint64_t>& words) {  // where 64 bytes begin, as a packed weight does
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(words.data()) + 63) / 64 * 64);
  }
  static mrt_tensor tensor(Operand& o) {
    mrt_tensor t{};
    t.ndim = -1;
    if (!o.shape.empty() && o.shape[0] < 0) return t;
    t.data = o.packed.empty() ? o.floats.data() : line(o.packed);
    t.dtype = o.packed.empty() ? mrt_dtype{MRT_FLOAT, 32, 1} : mrt_dtype{MRT_UINT, 8, 1};
    t.ndim = static_cast<int32_t>(o.shape.size());
    t.shape = o.shape.data();
    return t;
  }
  std::vector<mrt_attr> attributes() const {
    std::vector<mrt_attr> list;
    for (const auto& [key, values] : ints_) list.push_back({key, values.data(), nullptr, nullptr, values.size()});
    for (const auto& [key, text] : texts_) list.push_back({key, nullptr, nullptr, text, 0});
    return list;
  }
  std::vector<float> run(const char* isa, std::vector<int64_t>& shape) {
    Operand y{shape, std::vector<float>(static_cast<size_t>(count(shape)), 77.0f), {}};
    std::vector<mrt_tensor> in;
    for (Operand& o : operands_) in.push_back(tensor(o));
    mrt_tensor out = tensor(y);
    const auto list = attributes();
    const mrt_status status =
        mrt_kernel_run(contract_, isa, in.data(), in.size(), &out, 1, list.data(), list.size(), 1);
    if (status != MRT_OK) CHECK_EQ(std::string(mrt_last_error()), std::string("no error"));
    return y.floats;
  }

  const char* contract_;
  std::vector<Operand> operands_;
  std::vector<std::pair<const char*, std::vector<int64_t>>> ints_;
  std::vector<std::pair<const char*, const char*>> texts_;
  std::mt19937 random_{5};
};

}  // namespace

TEST(kernels, products) {
  for (const int64_t m : {1, 2, 3, 4, 5, 6, 7, 13, 29})
    for (const int64_t n : {1, 7, 8, 9, 16, 35})
      for (const int64_t k : {1, 3, 4, 5, 19, 700})
        Call("gemm_f32")
            .in({m, k})
            .attr("n", {n})
            .attr("k", {k})
            .in({k, n})
            .packed("gemm_f32_nr16_v1")
            .in({n})
            .in({m, n})
            .attr("act", n % 2 != 0 ? "relu" : "gelu")
            .gives({m, n}, k);
}

TEST(kernels, convolutions) {
  for (const int64_t in : {1, 3, 8, 21})
    for (const int64_t out : {1, 16, 23}) {
      for (const int64_t stride : {1, 2})
        Call("conv2d_f32")
            .in({2, 9, 7, in})
            .attr("kernel", {3, 3})
            .attr("channels", {in, out})
            .attr("pads", {1, 1, 1, 1})
            .attr("strides", {stride, stride})
            .in({out, in, 3, 3})
            .packed("conv2d_f32_nr16_v1")
            .in({out})
            .gives({2, 8 / stride + 1, 6 / stride + 1, out}, 9 * in);
      for (const int64_t tile : {2, 4})
        Call("conv2d_winograd_f32")
            .in({2, 9, 7, in})
            .attr("kernel", {3, 3})
            .attr("channels", {in, out})
            .attr("pads", {1, 1, 1, 1})
            .attr("tile", {tile})
            .in({out, in, 3, 3})
            .packed("conv2d_winograd_f32_nr16_v1")
            .in({out})
            .gives({2, 9, 7, out}, 90 * in);
    }
  for (const int64_t channels : {1, 4, 7, 8, 19})
    for (const int64_t side : {3, 5, 7})
      for (const int64_t stride : {1, 2})
        Call("depthwise_conv2d_f32")
            .in({1, 11, 10, channels})
            .attr("kernel", {side, side})
            .attr("channels", {channels, channels})
            .attr("pads", {side / 2, side / 2, side / 2, side / 2})
            .attr("strides", {stride, stride})
            .in({channels, 1, side, side})
            .packed("depthwise_f32_c8_v1")
            .in({channels})
            .gives({1, 10 / stride + 1, 9 / stride + 1, channels}, side * side);
}

TEST(kernels, attention) {
  for (const int64_t queries : {1, 3, 6, 8, 31})
    for (const int64_t keys : {1, 5, 16, 33})
      for (const int64_t depth : {4, 7, 16, 40}) {
        Call call("attention_f32");
        call.in({1, queries, 2, depth}).in({1, keys, 2, depth}).in({1, keys, 2, depth});
        call.gives({1, queries, 2, depth}, depth + keys);
      }
}

TEST(kernels, rows) {
  for (const int64_t n : {1, 3, 4, 5, 8, 17, 64, 101}) {
    Call("softmax_f32").in({3, n}).gives({3, n}, n);
    Call("layer_norm_f32").in({3, n}).in({n}).in({n}).gives({3, n}, n * n);
    Call("rms_norm_f32").in({3, n}).in({n}).gives({3, n}, n);
    Call("pool2d_f32").in({1, 6, 5, n}).attr("kernel", {2, 2}).attr("mode", "max").gives({1, 5, 4, n}, 1);
    Call("resize2d_f32").in({1, 4, 5, n}).attr("mode", "linear").gives({1, 9, 7, n}, 4);
    Call("transpose").in({13, n}).attr("perm", {1, 0}).gives({n, 13}, 1);
  }
}
