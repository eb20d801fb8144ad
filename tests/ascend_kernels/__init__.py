"""Kernels, ours and other people's, as Huawei's compilers make them: taken, executed, in order."""
