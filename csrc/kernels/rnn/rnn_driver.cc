// Recurrent layers over time; see rnn_driver.h.
//
// Sequences do not depend on each other, nor do directions: a task is some sequences in one direction and needs no
// other. A task takes the steps in chunks: one product of the inputs of all steps of a chunk with W (which is where the
// panels are worth their packing), then step by step the product of h with R, and the gates. Where there is one task
// only, as of few sequences and many units, its products are split over threads by panels.
#include "kernels/rnn/rnn_driver.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "kernels/qgemm/blocked.h"

namespace mrt {
namespace {

constexpr int64_t kChunkRows = 96;
constexpr int64_t kProductGrain = 128 * 1024;  // multiply-adds that are worth waking a thread for
constexpr int64_t kFewRows = 6;                // of a product, which then takes as long as reading its weights does
constexpr int64_t kNearBytes = 512 << 10;      // of weights that stay in the cache of a core from step to step

struct Cut {
  int64_t parts;  // of the batch
  int64_t batch;  // sequences of the largest part
  int64_t chunk;  // steps
  int64_t tasks;
};

Cut cut_of(const RnnProblem& p, int32_t threads) {
  Cut c;
  c.parts = p.w.bytes == nullptr ? (threads + p.dirs - 1) / p.dirs : 1;  // bytes: h has one range
  if (c.parts > p.batch) c.parts = p.batch;
  // Threads that share few sequences would each read all weights in each step: better a part of the weights each.
  const int64_t bytes = p.width() * p.hidden * static_cast<int64_t>(sizeof(float));
  if (p.dirs == 1 && p.batch < kFewRows * std::min<int64_t>(c.parts, 2) && bytes > kNearBytes) c.parts = 1;
  c.batch = (p.batch + c.parts - 1) / c.parts;
  c.parts = (p.batch + c.batch - 1) / c.batch;
  c.chunk = kChunkRows / c.batch > 0 ? kChunkRows / c.batch : 1;
  if (c.chunk > p.steps) c.chunk = p.steps;
  c.tasks = c.parts * p.dirs;
  return c;
}

struct Buffers {
  float *pre, *rec, *rec_h, *reset, *bias, *rec_bias, *h, *c;
  // Of weights of bytes: rows of bytes, where they are and their sums; sums of panels; scales and zero points of W and
  // R for whole panels.
  uint8_t* rows;
  const uint8_t** row_at;
  int32_t *row_sums, *acc, *zeros[2];
  float* scale[2];
  size_t bytes;
};

constexpr int64_t kAccRows = kChunkRows;  // rows of sums of one panel, or of fewer rows of several

// The most sequences or steps that a product has.
int64_t most_rows(const Cut& c) { return c.chunk * c.batch; }

Buffers buffers_of(const RnnProblem& p, const Cut& c, char* base) {
  Buffers b;
  size_t at = 0;
  const auto take_bytes = [&](int64_t bytes) {
    char* r = base == nullptr ? nullptr : base + at;
    at += align64(static_cast<size_t>(bytes));
    return r;
  };
  const auto take = [&](int64_t floats) { return reinterpret_cast<float*>(take_bytes(floats * 4)); };
  const bool gru = p.gates == 3;
  b.pre = take(c.chunk * c.batch * p.width());
  b.rec = take(gru ? c.batch * p.width() : 0);
  b.rec_h = take(gru && !p.reset_after ? c.batch * p.width() : 0);
  b.reset = take(gru && !p.reset_after ? c.batch * p.hidden : 0);
  b.bias = take(p.width());
  b.rec_bias = take(p.width());
  b.h = take(c.batch * p.hidden);
  b.c = take(gru ? 0 : c.batch * p.hidden);
  if (p.w.bytes != nullptr) {
    const int64_t rows = most_rows(c);
    b.rows = reinterpret_cast<uint8_t*>(take_bytes(std::max(rows * p.inputs, c.batch * p.hidden)));
    b.row_at = reinterpret_cast<const uint8_t**>(take_bytes(rows * static_cast<int64_t>(sizeof(uint8_t*))));
    b.row_sums = reinterpret_cast<int32_t*>(take(rows));
    b.acc = reinterpret_cast<int32_t*>(take(std::max(rows, kAccRows) * kRnnPanel));
    for (int i = 0; i < 2; ++i) {
      b.scale[i] = take(p.width());
      b.zeros[i] = reinterpret_cast<int32_t*>(take(p.width()));
    }
  }
  b.bytes = at;
  return b;
}

struct Task {
  const RnnKernel* kernel;
  const RnnProblem& p;
  const Cut& cut;
  Buffers buf;
  int64_t dir, first, count;  // sequences [first, first + count)
  KernelContext* split;       // not null: products may use threads
  Watch* watch;               // not null: the run may have to end between two steps
  ByteScale h_scale{};        // of weights of bytes: that of h as it is before a step

  enum Which { kInput, kRecurrent };
  const RnnWeights& weights(Which which) const { return which == kInput ? p.w : p.r; }
  int64_t depth(Which which) const { return which == kInput ? p.inputs : p.hidden; }
  void product(Which which, const float* a, int64_t rows, int64_t begin, int64_t end, float* c);
  void product_of_bytes(Which which, const float* a, int64_t rows, int64_t begin, int64_t end, float* c);
  void start();
  void start_bytes(Which which);
  void project(int64_t t, int64_t steps);
  void lstm_step(float* pre, int64_t t);
  void gru_step(float* pre, int64_t t);
  void emit(int64_t t);
  void run();
  bool over(int64_t b, int64_t t) const { return p.lengths != nullptr && t >= p.lengths[first + b]; }
};

// c[rows][width] += a * panels [begin, end) of W or R; rows of a lie one behind the other.
void Task::product(Which which, const float* a, int64_t rows, int64_t begin, int64_t end, float* c) {
  if (weights(which).bytes != nullptr) return product_of_bytes(which, a, rows, begin, end, c);
  const int64_t k = depth(which);
  const float* const panels = weights(which).panels + dir * p.width() * k;
  const auto some = [&](int64_t from, int64_t to) {
    kernel->product(a, k, rows, k, panels + from * k * kRnnPanel, to - from, c + from * kRnnPanel, p.width());
  };
  const int64_t panel_work = rows * k * kRnnPanel;
  if (split == nullptr || (end - begin) * panel_work < 2 * kProductGrain) return some(begin, end);
  parallel_ranges(*split, end - begin, kProductGrain / (panel_work > 0 ? panel_work : 1),
                  [&](int64_t from, int64_t to) { some(begin + from, begin + to); });
}

// The same in bytes: rows of h, and of what a reset gate leaves of it, by the range of h.
void Task::product_of_bytes(Which which, const float* a, int64_t rows, int64_t begin, int64_t end, float* c) {
  const int64_t k = depth(which);
  const ByteScale s = which == kInput ? p.x_scale : h_scale;
  p.quantize->quantize(a, rows * k, byte_divisor(s), s.zero, buf.rows);
  const bool zeros = weights(which).zeros != nullptr;
  for (int64_t i = 0; i < rows; ++i) {
    buf.row_at[i] = buf.rows + i * k;
    if (!zeros) continue;
    const uint32_t sum = static_cast<uint32_t>(p.tiles->row_sum(buf.row_at[i], k));
    buf.row_sums[i] = static_cast<int32_t>(sum - static_cast<uint32_t>(k) * s.zero);
  }
  const QPanelLayout layout = q_panel_layout(1, k);
  const char* const packed = weights(which).bytes + dir * (p.width() / kRnnPanel) * layout.bytes;
  const int64_t together = std::max<int64_t>(1, kAccRows / rows);
  for (int64_t panel = begin; panel < end; panel += together) {
    const int64_t panels = std::min(together, end - panel);
    q_panel_sums(*p.tiles, layout, packed + panel * layout.bytes, panels, buf.row_at, rows, buf.acc);
    const int64_t column = panel * kRnnPanel;
    kernel->add_sums({buf.acc, panels, rows, packed + panel * layout.bytes, layout.bytes, s.zero,
                      zeros ? buf.row_sums : nullptr, buf.zeros[which] + column, buf.scale[which] + column, s.scale,
                      c + column, p.width()});
  }
}

// Scales and zero points of W or R for whole panels; columns that do not exist have 0.
void Task::start_bytes(Which which) {
  const int64_t n = p.gates * p.hidden;
  const RnnWeights& w = weights(which);
  for (int64_t i = 0; i < p.width(); ++i) {
    buf.scale[which][i] = i < n ? w.scale[dir * n + i] : 0.0f;
    buf.zeros[which][i] = w.zeros != nullptr && i < n ? w.zeros[dir * n + i] : 0;
  }
}

// Initial states and the rows that products are added to. The LSTM's biases belong together; of the GRU's, that of R
// stays by itself, because the reset gate may multiply it.
void Task::start() {
  const int64_t n = p.gates * p.hidden;
  std::memset(buf.bias, 0, static_cast<size_t>(p.width()) * sizeof(float));
  std::memset(buf.rec_bias, 0, static_cast<size_t>(p.width()) * sizeof(float));
  if (p.bias != nullptr) {
    const float* bias = p.bias + dir * 2 * n;
    std::memcpy(buf.bias, bias, static_cast<size_t>(n) * sizeof(float));
    std::memcpy(buf.rec_bias, bias + n, static_cast<size_t>(n) * sizeof(float));
    if (p.gates == 4) {
      for (int64_t i = 0; i < n; ++i) buf.bias[i] += buf.rec_bias[i];
    }
  }
  const auto load = [&](float* to, const float* from) {
    const size_t bytes = static_cast<size_t>(count * p.hidden) * sizeof(float);
    if (from == nullptr) {
      std::memset(to, 0, bytes);
    } else {
      std::memcpy(to, from + (dir * p.batch + first) * p.hidden, bytes);
    }
  };
  load(buf.h, p.h0);
  if (p.gates == 4) load(buf.c, p.c0);
  if (p.w.bytes == nullptr) return;
  start_bytes(kInput);
  start_bytes(kRecurrent);
}

void fill_rows(float* to, int64_t rows, const float* row, int64_t width) {
  for (int64_t i = 0; i < rows; ++i) std::memcpy(to + i * width, row, static_cast<size_t>(width) * sizeof(float));
}

// pre = W x + bias of the steps [t, t + steps).
void Task::project(int64_t t, int64_t steps) {
  const int64_t panels = p.width() / kRnnPanel;
  fill_rows(buf.pre, steps * count, buf.bias, p.width());
  const float* x = p.x + (t * p.batch + first) * p.inputs;
  if (count == p.batch) return product(kInput, x, steps * count, 0, panels, buf.pre);
  for (int64_t s = 0; s < steps; ++s) {
    product(kInput, x + s * p.batch * p.inputs, count, 0, panels, buf.pre + s * count * p.width());
  }
}

void Task::lstm_step(float* pre, int64_t t) {
  product(kRecurrent, buf.h, count, 0, p.width() / kRnnPanel, pre);
  const int64_t n = p.hidden;
  for (int64_t b = 0; b < count; ++b) {
    if (over(b, t)) continue;
    LstmCell cell{pre + b * p.width(), {0, n, 2 * n, 3 * n}, n, buf.c + b * n, buf.h + b * n};
    if (!p.torch_order) {
      cell.at[1] = 2 * n;
      cell.at[2] = 3 * n;
      cell.at[3] = n;
    }
    kernel->lstm(cell);
  }
}

void Task::gru_step(float* pre, int64_t t) {
  const int64_t n = p.hidden, panels = p.width() / kRnnPanel;
  const auto cell_of = [&](int64_t b) {
    GruCell cell{pre + b * p.width(), buf.rec + b * p.width(), buf.rec + b * p.width(), {0, n, 2 * n}, n, p.reset_after,
                 buf.h + b * n};
    if (p.torch_order) {
      cell.at[0] = n;
      cell.at[1] = 0;
    }
    if (!p.reset_after) cell.rec_h = buf.rec_h + b * p.width();
    return cell;
  };
  fill_rows(buf.rec, count, buf.rec_bias, p.width());
  const int64_t gates_end = p.reset_after ? panels : (2 * n + kRnnPanel - 1) / kRnnPanel;
  product(kRecurrent, buf.h, count, 0, gates_end, buf.rec);
  if (!p.reset_after) {
    for (int64_t b = 0; b < count; ++b) kernel->gru_reset(cell_of(b), buf.reset + b * n);
    fill_rows(buf.rec_h, count, buf.rec_bias, p.width());
    product(kRecurrent, buf.reset, count, 2 * n / kRnnPanel, panels, buf.rec_h);
  }
  for (int64_t b = 0; b < count; ++b) {
    if (!over(b, t)) kernel->gru(cell_of(b));
  }
}

// Writes h to y; a sequence that is over gives zeros.
void Task::emit(int64_t t) {
  if (p.y == nullptr) return;
  for (int64_t b = 0; b < count; ++b) {
    float* y = p.y + (t * p.batch + first + b) * p.dirs * p.hidden + dir * p.hidden;
    const size_t bytes = static_cast<size_t>(p.hidden) * sizeof(float);
    if (over(b, t)) {
      std::memset(y, 0, bytes);
    } else {
      std::memcpy(y, buf.h + b * p.hidden, bytes);
    }
  }
}

void Task::run() {
  start();
  const bool backward = p.backward(dir);
  Pace pace(watch, 2.0 * static_cast<double>(count * p.width()) * static_cast<double>(p.hidden));
  for (int64_t done = 0; done < p.steps; done += cut.chunk) {
    const int64_t steps = p.steps - done < cut.chunk ? p.steps - done : cut.chunk;
    const int64_t t0 = backward ? p.steps - done - steps : done;
    project(t0, steps);
    for (int64_t i = 0; i < steps; ++i) {
      if (pace.stop()) return;
      if (p.r.bytes != nullptr) h_scale = byte_scale(p.quantize->range(buf.h, count * p.hidden));
      const int64_t s = backward ? steps - 1 - i : i;
      float* pre = buf.pre + s * count * p.width();
      if (p.gates == 4) {
        lstm_step(pre, t0 + s);
      } else {
        gru_step(pre, t0 + s);
      }
      emit(t0 + s);
    }
  }
  const int64_t at = (dir * p.batch + first) * p.hidden;
  const size_t bytes = static_cast<size_t>(count * p.hidden) * sizeof(float);
  if (p.hn != nullptr) std::memcpy(p.hn + at, buf.h, bytes);
  if (p.cn != nullptr) std::memcpy(p.cn + at, buf.c, bytes);
}

RnnProblem problem_of(const RnnContract& c, const RnnParams& params, const Tensor* in, int n_in, const Tensor* out,
                      int n_out) {
  const auto data = [&](int i) { return i >= 0 && present(in, n_in, i) ? in[i].as<float>() : nullptr; };
  const auto result = [&](int i) { return present(out, n_out, i) ? out[i].as<float>() : nullptr; };
  RnnProblem p{};
  p.steps = in[0].shape[0];
  p.batch = in[0].shape[1];
  p.inputs = in[0].shape[2];
  p.hidden = params.hidden;
  p.dirs = params.direction == 2 ? 2 : 1;
  p.gates = c.gates;
  p.reversed = params.direction == 1;
  p.torch_order = params.torch_order != 0;
  p.reset_after = params.reset_after != 0;
  p.x = data(0);
  p.tiles = params.tiles;
  p.quantize = params.quantize;
  if (!c.in_bytes()) {
    p.w.panels = data(1);
    p.r.panels = data(2);
  } else {
    const auto zeros = [&](int i) { return present(in, n_in, i) ? in[i].as<const int8_t>() : nullptr; };
    p.w = {nullptr, in[1].as<const char>(), data(c.w_scale), zeros(c.w_scale + 2)};
    p.r = {nullptr, in[2].as<const char>(), data(c.w_scale + 1), zeros(c.w_scale + 3)};
  }
  p.bias = data(3);
  p.h0 = data(c.h0);
  p.c0 = data(c.c0);
  p.lengths = present(in, n_in, c.lengths) ? in[c.lengths].as<int32_t>() : nullptr;
  p.y = result(0);
  p.hn = result(1);
  p.cn = c.c0 >= 0 ? result(2) : nullptr;
  return p;
}

Status check_weight(const RnnContract& c, const char* name, const Tensor& t, int64_t dirs, int64_t rows, int64_t k) {
  const int64_t bytes = rnn_packed_bytes(c, dirs, rows, k);
  if (bytes < 0 || static_cast<uint64_t>(bytes) != t.bytes) {
    return fail(MRT_ERROR_SHAPE, "%s: %s holds %zu bytes, expected %" PRId64 " in packing '%s'", c.name, name, t.bytes,
                bytes, c.packing);
  }
  return Status();
}

Status check_dims(const char* contract, const char* name, const Tensor& t, const int64_t* dims) {
  for (int32_t i = 0; i < t.ndim; ++i) MRT_TRY(check_extent(contract, name, t, i, dims[i]));
  return Status();
}

// What belongs to weights of bytes, [dirs, rows] each.
Status check_bytes(const RnnContract& c, const Tensor* in, int n_in, const int64_t (&dims)[2], int64_t inputs,
                   int64_t hidden) {
  static const char* const kNames[] = {"w_scale", "r_scale", "w_zero", "r_zero"};
  for (int i = 0; i < 4; ++i) {
    const int at = c.w_scale + i;
    if (i >= 2) MRT_TRY(q_check_depth(c.name, present(in, n_in, at) ? 2 : 1, i == 2 ? inputs : hidden));
    if (present(in, n_in, at)) MRT_TRY(check_dims(c.name, kNames[i], in[at], dims));
  }
  return Status();
}

}  // namespace

Status rnn_prepare(const RnnContract& c, const Attrs& attrs, Isa isa, RnnParams* p) {
  p->kernel = kRnnF32[isa];
  p->tiles = c.in_bytes() ? kQTile[isa] : nullptr;
  p->quantize = c.in_bytes() ? kDynamicQuantize[isa] : nullptr;
  MRT_TRY(attr_int(attrs, "hidden", &p->hidden));
  MRT_TRY(attr_choice(attrs, "direction", &p->direction));
  MRT_TRY(attr_choice(attrs, "gates", &p->torch_order));
  return c.gates == 3 ? attr_int(attrs, "linear_before_reset", &p->reset_after) : Status();
}

Status rnn_check(const RnnContract& c, const RnnParams& p, const Tensor* in, int n_in, const Tensor* out, int n_out) {
  const char* name = c.name;
  const int64_t dirs = p.direction == 2 ? 2 : 1, rows = c.gates * p.hidden;
  const int64_t steps = in[0].shape[0], batch = in[0].shape[1];
  MRT_TRY(check_weight(c, "w", in[1], dirs, rows, in[0].shape[2]));
  MRT_TRY(check_weight(c, "r", in[2], dirs, rows, p.hidden));
  // An empty x may claim any batch; scratch must not overflow for it.
  if (checked_mul(checked_mul(batch, rows + kRnnPanel), 64 * dirs) < 0 ||
      checked_mul(checked_mul(batch, in[0].shape[2]), 64) < 0) {
    return fail(MRT_ERROR_SHAPE, "%s: a batch of %" PRId64 " is too large", name, batch);
  }
  const int64_t bias[] = {dirs, 2 * rows}, state[] = {dirs, batch, p.hidden}, y[] = {steps, batch, dirs * p.hidden};
  if (c.in_bytes()) {
    const int64_t each[2] = {dirs, rows};
    MRT_TRY(check_bytes(c, in, n_in, each, in[0].shape[2], p.hidden));
  }
  if (present(in, n_in, 3)) MRT_TRY(check_dims(name, "bias", in[3], bias));
  if (present(in, n_in, c.h0)) MRT_TRY(check_dims(name, "h0", in[c.h0], state));
  if (c.c0 >= 0 && present(in, n_in, c.c0)) MRT_TRY(check_dims(name, "c0", in[c.c0], state));
  if (present(in, n_in, c.lengths)) MRT_TRY(check_extent(name, "lengths", in[c.lengths], 0, batch));
  if (present(out, n_out, 0)) MRT_TRY(check_dims(name, "y", out[0], y));
  if (present(out, n_out, 1)) MRT_TRY(check_dims(name, "hn", out[1], state));
  if (present(out, n_out, 2)) MRT_TRY(check_dims(name, "cn", out[2], state));
  return Status();
}

size_t rnn_scratch(const RnnContract& c, const RnnParams& params, const Tensor* in, int n_in, const Tensor* out,
                   int n_out, int32_t threads) {
  const RnnProblem p = problem_of(c, params, in, n_in, out, n_out);
  if (p.batch == 0) return 0;
  if (params.kernel == nullptr) {  // the reference keeps the states where an output is absent
    return align64(static_cast<size_t>(p.dirs * p.batch * p.hidden) * 4) * 2 +
           align64(static_cast<size_t>(p.steps * p.batch * p.dirs * p.hidden) * 4);
  }
  const Cut cut = cut_of(p, threads);
  return buffers_of(p, cut, nullptr).bytes * static_cast<size_t>(cut.tasks);
}

int32_t rnn_run(const RnnContract& c, const RnnParams& params, const Tensor* in, int n_in, const Tensor* out, int n_out,
                KernelContext& ctx) {
  RnnProblem p = problem_of(c, params, in, n_in, out, n_out);
  if (p.batch == 0) return MRT_OK;
  for (int64_t b = 0; p.lengths != nullptr && b < p.batch; ++b) {
    if (p.lengths[b] < 0 || p.lengths[b] > p.steps) {
      ctx.error = "lstm, gru: a length is out of range; lengths must lie between 0 and the number of steps of x";
      return MRT_ERROR_RUN;
    }
  }
  if (p.w.bytes != nullptr) {
    const int64_t n = p.steps * p.batch * p.inputs;
    p.x_scale = byte_scale(params.quantize == nullptr ? range_reference(p.x, n) : params.quantize->range(p.x, n));
  }
  char* scratch = static_cast<char*>(ctx.scratch);
  if (params.kernel == nullptr) {
    const size_t state = align64(static_cast<size_t>(p.dirs * p.batch * p.hidden) * 4);
    if (p.hn == nullptr) p.hn = reinterpret_cast<float*>(scratch);
    if (p.cn == nullptr) p.cn = reinterpret_cast<float*>(scratch + state);
    if (p.y == nullptr) p.y = reinterpret_cast<float*>(scratch + 2 * state);
    (c.gates == 4 ? lstm_reference : gru_reference)(p);
    return MRT_OK;
  }
  const Cut cut = cut_of(p, ctx.threads);
  const size_t bytes = buffers_of(p, cut, nullptr).bytes;
  const auto work = [&](int64_t i) {
    const int64_t part = i % cut.parts, first = part * cut.batch;
    const int64_t count = p.batch - first < cut.batch ? p.batch - first : cut.batch;
    Task task{params.kernel, p,     cut,   buffers_of(p, cut, scratch + static_cast<size_t>(i) * bytes),
              i / cut.parts, first, count, cut.tasks == 1 && ctx.pool != nullptr && ctx.threads > 1 ? &ctx : nullptr,
              ctx.watch};
    task.run();
  };
  parallel_items(ctx, cut.tasks, ctx.threads, [&](int64_t, int64_t i) { work(i); });
  if (ctx.watch != nullptr && ctx.watch->stopped()) throw_stopped();
  return MRT_OK;
}

double rnn_flops(const RnnContract& c, const RnnParams& p, const Tensor* in) {
  const double steps = static_cast<double>(in[0].shape[0]) * static_cast<double>(in[0].shape[1]);
  const double dirs = p.direction == 2 ? 2 : 1, hidden = static_cast<double>(p.hidden);
  return 2 * steps * dirs * static_cast<double>(c.gates) * hidden * (static_cast<double>(in[0].shape[2]) + hidden);
}

}  // namespace mrt
