// flashinfer's RoPE with a cos/sin cache, in place, from the headers of its released package, for PyTorch.
#include <ATen/cuda/CUDAContext.h>
#include <torch/extension.h>

#include <flashinfer/pos_enc.cuh>

template <typename T>
void rotate(at::Tensor q, at::Tensor k, at::Tensor cache, at::Tensor positions, bool interleave) {
  // q, k: [num_tokens, num_heads, head_size] with any token and head stride; cache: fp32, its only form.
  auto status = flashinfer::BatchQKApplyRotaryPosIdsCosSinCache<T, int64_t>(
      static_cast<T*>(q.data_ptr()), static_cast<T*>(k.data_ptr()), static_cast<T*>(q.data_ptr()),
      static_cast<T*>(k.data_ptr()), cache.data_ptr<float>(), positions.data_ptr<int64_t>(), q.size(0), q.size(1),
      k.size(1), cache.size(1), q.size(2), q.stride(0), q.stride(1), k.stride(0), k.stride(1), q.stride(0),
      q.stride(1), k.stride(0), k.stride(1), interleave, at::cuda::getCurrentCUDAStream());
  TORCH_CHECK(status == cudaSuccess, cudaGetErrorString(status));
}

void rotate_in_place(at::Tensor q, at::Tensor k, at::Tensor cache, at::Tensor positions, bool interleave) {
  if (q.scalar_type() == at::kBFloat16) {
    rotate<__nv_bfloat16>(q, k, cache, positions, interleave);
  } else {
    TORCH_CHECK(q.scalar_type() == at::kHalf, "bfloat16 or float16");
    rotate<__half>(q, k, cache, positions, interleave);
  }
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("rotate_in_place", &rotate_in_place); }
