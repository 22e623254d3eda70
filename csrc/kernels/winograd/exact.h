// Tiles whose Winograd result is not finite, computed as the convolution's definition says.
//
// A transform adds what the definition keeps apart: one infinity in a tile's input would make NaNs of outputs that
// never see it, and large numbers could overflow on the way. Such tiles are rare; they are made again, slowly, from the
// filter that the transformed weights give back (to the rounding of those).
#pragma once

#include "kernels/conv2d/geometry.h"
#include "kernels/epilogue/epilogue.h"

namespace mrt {

struct ExactTile {
  const ConvGeometry* g;
  const Epilogue* epilogue;
  int64_t m;
  const float* w;      // packed as conv2d_winograd_f32_nr16_v1
  const float* image;  // [h, w, in_channels]
  int64_t h, width;
  int64_t row, column;    // of the tile's first output
  int64_t rows, columns;  // of the tile
  const float* bias;      // null or [out_channels]
  const float* residual;  // null or like y
  float* y;               // the tile's first output
  int64_t line, pixel;    // floats from one to the next, of y and of the residual
};

void winograd_exact_tile(const ExactTile& t);

}  // namespace mrt
