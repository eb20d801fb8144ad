// flashinfer's RMS norm of heads, in place, from the headers of its released package, for PyTorch.
#include <ATen/cuda/CUDAContext.h>
#include <torch/extension.h>

#include <flashinfer/norm.cuh>

template <typename T>
void norm(at::Tensor x, at::Tensor weight, double eps) {
  // x: [num_tokens, num_heads, head_size] with any token and head stride.
  auto data = static_cast<T*>(x.data_ptr());
  auto status = flashinfer::norm::QKRMSNorm<T>(
      data, static_cast<T*>(weight.data_ptr()), data, x.size(0), x.size(1), x.size(2), x.stride(0), x.stride(1),
      x.stride(0), x.stride(1), eps, false, at::cuda::getCurrentCUDAStream());
  TORCH_CHECK(status == cudaSuccess, cudaGetErrorString(status));
}

void norm_in_place(at::Tensor x, at::Tensor weight, double eps) {
  if (x.scalar_type() == at::kBFloat16) {
    norm<__nv_bfloat16>(x, weight, eps);
  } else {
    TORCH_CHECK(x.scalar_type() == at::kHalf, "bfloat16 or float16");
    norm<__half>(x, weight, eps);
  }
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("norm_in_place", &norm_in_place); }
