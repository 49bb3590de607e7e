// What cuBLASLt, cuDNN and the driver do with the calls that bench makes, on the host's memory and in plain loops: column-major
// products and NHWC convolutions in f32. The numbers of enumerations are those of NVIDIA's headers. Whatever does not fit
// together is refused as there: 7 is CUBLAS_STATUS_INVALID_VALUE, 2000 CUDNN_STATUS_BAD_PARAM.
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

constexpr int CUDA_R_32F = 0, CUBLAS_COMPUTE_32F = 68, EPILOGUE_BIAS = 4;
constexpr int NHWC = 1, CROSS_CORRELATION = 1, TENSOR_OP_MATH = 1, FMA_MATH = 3;
constexpr int BLAS_INVALID = 7, DNN_INVALID = 2000, CHOSEN = 1;
constexpr size_t WORKSPACE = 100;

struct Product {
    int transposed[2] = {0, 0}, epilogue = 1;
    const float* bias = nullptr;
};
struct Layout {
    int64_t rows, columns, ld;
};
struct Tensor {
    int n, c, h, w;
};
struct Convolution {
    int top, left, down, right, math = 0;
};
struct Performance {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

template <typename T> T* as(void* p) { return static_cast<T*>(p); }
template <typename T> const T* as(const void* p) { return static_cast<const T*>(p); }

bool fits(const Product& p, const Layout& a, const Layout& b, const Layout& d) {
    const int64_t m = p.transposed[0] ? a.columns : a.rows, k = p.transposed[0] ? a.rows : a.columns;
    const int64_t depth = p.transposed[1] ? b.columns : b.rows, n = p.transposed[1] ? b.rows : b.columns;
    return k == depth && d.rows == m && d.columns == n && a.ld >= a.rows && b.ld >= b.rows && d.ld >= d.rows;
}

// Two choices: one that an f32 product may not take, and one.
int choices(int requested, int* count, void* found) {
    if (requested < 2) return DNN_INVALID;
    *count = 2;
    as<Performance>(found)[0] = {0, 0, 1.f, WORKSPACE, 0, TENSOR_OP_MATH, {}};
    as<Performance>(found)[1] = {CHOSEN, 0, 2.f, WORKSPACE, 0, FMA_MATH, {}};
    return 0;
}

// f(index in x, index in weight, index in y) for every product of a convolution.
template <typename F>
int convolve(const Tensor& x, const Tensor& w, const Convolution& conv, const Tensor& y, int algorithm, void* work, size_t bytes, F f) {
    const bool sizes = x.n == y.n && x.c == w.c && y.c == w.n && y.h == (x.h + 2 * conv.top - w.h) / conv.down + 1 &&
                       y.w == (x.w + 2 * conv.left - w.w) / conv.right + 1;
    if (!sizes || algorithm != CHOSEN || conv.math != FMA_MATH || !work || bytes < WORKSPACE) return DNN_INVALID;
    for (int n = 0; n < y.n; n++)
        for (int i = 0; i < y.h; i++)
            for (int j = 0; j < y.w; j++)
                for (int o = 0; o < y.c; o++)
                    for (int r = 0; r < w.h; r++)
                        for (int s = 0; s < w.w; s++) {
                            const int row = i * conv.down + r - conv.top, column = j * conv.right + s - conv.left;
                            if (row < 0 || row >= x.h || column < 0 || column >= x.w) continue;
                            for (int c = 0; c < x.c; c++)
                                f(((n * x.h + row) * x.w + column) * x.c + c, ((o * w.h + r) * w.w + s) * w.c + c,
                                  ((n * y.h + i) * y.w + j) * y.c + o);
                        }
    return 0;
}

size_t size(const Tensor& t) { return (size_t)t.n * t.c * t.h * t.w; }

bool plain(const void* alpha, const void* beta) { return *as<float>(alpha) == 1.f && *as<float>(beta) == 0.f; }

template <typename T> int make(void** out) {
    *out = new T();
    return 0;
}
template <typename T> int drop(void* p) {
    delete as<T>(p);
    return 0;
}

}  // namespace

extern "C" {

int cuCtxSetCurrent(void*) { return 0; }

int cublasLtCreate(void** h) { return make<int>(h); }
int cublasLtDestroy(void* h) { return drop<int>(h); }
int cublasLtMatmulDescCreate(void** p, int compute, int scale) {
    return compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F ? make<Product>(p) : BLAS_INVALID;
}
int cublasLtMatmulDescDestroy(void* p) { return drop<Product>(p); }
int cublasLtMatmulDescSetAttribute(void* p, int attribute, const void* value, size_t bytes) {
    auto* product = as<Product>(p);
    void* to[] = {&product->transposed[0], &product->transposed[1], nullptr, nullptr, &product->epilogue, &product->bias};
    const size_t sizes[] = {4, 4, 0, 0, 4, 8};
    if (attribute < 3 || attribute > 8 || !to[attribute - 3] || bytes != sizes[attribute - 3]) return BLAS_INVALID;
    std::memcpy(to[attribute - 3], value, bytes);
    return 0;
}
int cublasLtMatrixLayoutCreate(void** p, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    if (type != CUDA_R_32F) return BLAS_INVALID;
    *p = new Layout{(int64_t)rows, (int64_t)columns, ld};
    return 0;
}
int cublasLtMatrixLayoutDestroy(void* p) { return drop<Layout>(p); }
int cublasLtMatmulPreferenceCreate(void** p) { return make<size_t>(p); }
int cublasLtMatmulPreferenceDestroy(void* p) { return drop<size_t>(p); }
int cublasLtMatmulPreferenceSetAttribute(void* p, int attribute, const void* value, size_t bytes) {
    if (attribute != 1 || bytes != sizeof(size_t)) return BLAS_INVALID;
    std::memcpy(p, value, bytes);
    return 0;
}
int cublasLtMatmulAlgoGetHeuristic(void*, void* p, void* a, void* b, void*, void* d, void* most, int requested, void* found,
                                   int* count) {
    struct Result {
        uint64_t algorithm[8];
        size_t workspace;
        int state;
        float waves;
        int reserved[4];
    };
    const bool right = fits(*as<Product>(p), *as<Layout>(a), *as<Layout>(b), *as<Layout>(d));
    if (!right || requested != 1 || *as<size_t>(most) < WORKSPACE) return BLAS_INVALID;
    *as<Result>(found) = {{CHOSEN}, WORKSPACE, 0, 1.f, {}};
    *count = 1;
    return 0;
}
int cublasLtMatmul(void*, void* p, const void* alpha, const void* a, void* a_is, const void* b, void* b_is, const void* beta,
                   const void* c, void* c_is, void* d, void* d_is, const void* algorithm, void* work, size_t bytes, void*) {
    const auto& product = *as<Product>(p);
    const auto &la = *as<Layout>(a_is), &lb = *as<Layout>(b_is), &lc = *as<Layout>(c_is), &ld = *as<Layout>(d_is);
    if (!fits(product, la, lb, ld) || *as<uint64_t>(algorithm) != CHOSEN || !work || bytes < WORKSPACE) return BLAS_INVALID;
    const int64_t k = product.transposed[0] ? la.rows : la.columns;
    for (int64_t j = 0; j < ld.columns; j++)
        for (int64_t i = 0; i < ld.rows; i++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += (double)as<float>(a)[product.transposed[0] ? l + i * la.ld : i + l * la.ld] *
                       as<float>(b)[product.transposed[1] ? j + l * lb.ld : l + j * lb.ld];
            sum = *as<float>(alpha) * sum;
            if (*as<float>(beta) != 0.f) sum += *as<float>(beta) * as<float>(c)[i + j * lc.ld];
            if (product.epilogue == EPILOGUE_BIAS) sum += product.bias[i];
            as<float>(d)[i + j * ld.ld] = (float)sum;
        }
    return 0;
}

int cudnnCreate(void** h) { return make<int>(h); }
int cudnnDestroy(void* h) { return drop<int>(h); }
int cudnnSetStream(void*, void*) { return 0; }
int cudnnCreateTensorDescriptor(void** p) { return make<Tensor>(p); }
int cudnnDestroyTensorDescriptor(void* p) { return drop<Tensor>(p); }
int cudnnSetTensor4dDescriptor(void* p, int format, int type, int n, int c, int h, int w) {
    *as<Tensor>(p) = {n, c, h, w};
    return format == NHWC && type == 0 ? 0 : DNN_INVALID;
}
int cudnnCreateFilterDescriptor(void** p) { return make<Tensor>(p); }
int cudnnDestroyFilterDescriptor(void* p) { return drop<Tensor>(p); }
int cudnnSetFilter4dDescriptor(void* p, int type, int format, int k, int c, int h, int w) {
    *as<Tensor>(p) = {k, c, h, w};
    return format == NHWC && type == 0 ? 0 : DNN_INVALID;
}
int cudnnCreateConvolutionDescriptor(void** p) { return make<Convolution>(p); }
int cudnnDestroyConvolutionDescriptor(void* p) { return drop<Convolution>(p); }
int cudnnSetConvolution2dDescriptor(void* p, int top, int left, int down, int right, int y, int x, int mode, int type) {
    *as<Convolution>(p) = {top, left, down, right};
    return y == 1 && x == 1 && mode == CROSS_CORRELATION && type == 0 ? 0 : DNN_INVALID;
}
int cudnnSetConvolutionMathType(void* p, int math) {
    as<Convolution>(p)->math = math;
    return 0;
}
int cudnnGetConvolutionForwardAlgorithm_v7(void*, void*, void*, void*, void*, int requested, int* count, void* found) {
    return choices(requested, count, found);
}
int cudnnGetConvolutionBackwardDataAlgorithm_v7(void*, void*, void*, void*, void*, int requested, int* count, void* found) {
    return choices(requested, count, found);
}
int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void*, void*, void*, void*, void*, int requested, int* count, void* found) {
    return choices(requested, count, found);
}
int cudnnConvolutionForward(void*, const void* alpha, void* x_is, const void* x, void* w_is, const void* w, void* conv, int algorithm,
                            void* work, size_t bytes, const void* beta, void* y_is, void* y) {
    if (!plain(alpha, beta)) return DNN_INVALID;
    std::memset(y, 0, size(*as<Tensor>(y_is)) * sizeof(float));
    return convolve(*as<Tensor>(x_is), *as<Tensor>(w_is), *as<Convolution>(conv), *as<Tensor>(y_is), algorithm, work, bytes,
                    [&](int i, int j, int k) { as<float>(y)[k] += as<float>(x)[i] * as<float>(w)[j]; });
}
int cudnnConvolutionBackwardData(void*, const void* alpha, void* w_is, const void* w, void* y_is, const void* y, void* conv,
                                 int algorithm, void* work, size_t bytes, const void* beta, void* x_is, void* x) {
    if (!plain(alpha, beta)) return DNN_INVALID;
    std::memset(x, 0, size(*as<Tensor>(x_is)) * sizeof(float));
    return convolve(*as<Tensor>(x_is), *as<Tensor>(w_is), *as<Convolution>(conv), *as<Tensor>(y_is), algorithm, work, bytes,
                    [&](int i, int j, int k) { as<float>(x)[i] += as<float>(y)[k] * as<float>(w)[j]; });
}
int cudnnConvolutionBackwardFilter(void*, const void* alpha, void* x_is, const void* x, void* y_is, const void* y, void* conv,
                                   int algorithm, void* work, size_t bytes, const void* beta, void* w_is, void* w) {
    if (!plain(alpha, beta)) return DNN_INVALID;
    std::memset(w, 0, size(*as<Tensor>(w_is)) * sizeof(float));
    return convolve(*as<Tensor>(x_is), *as<Tensor>(w_is), *as<Convolution>(conv), *as<Tensor>(y_is), algorithm, work, bytes,
                    [&](int i, int j, int k) { as<float>(w)[j] += as<float>(x)[i] * as<float>(y)[k]; });
}

}  // extern "C"
