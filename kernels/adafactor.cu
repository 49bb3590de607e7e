// Adafactor (Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4 to 6), as transformers.optimization.Adafactor computes it:
// of the mean of squares only the means of rows and of columns are kept.
//
//     scale = max(eps2, rms(p)) or 1,   b2 = 1 - t^decay_rate,   g the gradient times `clip`
//     row = b2 row + (1 - b2) mean of g^2 + eps1 over columns,   column likewise over rows
//     u = g / sqrt(row / mean(row)) / sqrt(column),   u = rate scale u / max(1, rms(u) / threshold)
//     m = b1 m + (1 - b1) u   (where b1 is given: u = m),   p = p (1 - decay rate scale) - u
//
// A block does one parameter, in four passes over it: 40 bytes a value, bound by memory. Parameters of a LoRA are some
// hundreds of small matrices.
#include "kernel.h"
#include "optimizer.h"
#include "reduce.h"

CONSTANT(ADAFACTOR_THREADS, 256);

// rates [2]: rate and b2. The rate is lr's, or with `relative` min(1e-2, 1 / sqrt(t)), with `warming` min(1e-6 t, 1 / sqrt(t)).
// One thread.
KERNEL(adafactor_rates)
(float* rates, float* progress, const float* clip, const float* lr, int count, int interval, int relative, int warming,
 float decay_rate) {
    if (threadIdx.x) return;
    const float given = next_rate(progress, clip, lr, count, interval);
    const double t = progress[2] > 1.f ? progress[2] : 1.f;
    const double bound = warming ? 1e-6 * t : 1e-2, falling = 1. / sqrt(t);
    rates[0] = relative ? (float)(bound < falling ? bound : falling) : given;
    rates[1] = (float)(1. - exp(decay_rate * log(t)));
}

// matrices [count, 5]: where a parameter begins, its rows and columns, and where its means of rows and of columns begin. m [n]
// is used where keep_first > 0. `copy` takes p in compute precision. Nothing changes where clip[0] is 0.
KERNEL_BOUNDS(adafactor, ADAFACTOR_THREADS, 1)
(float* p, float* row_means, float* column_means, float* m, scalar_t* copy, const float* g, const long long* matrices,
 const float* rates, const float* clip, float eps1, float eps2, float threshold, float keep_first, float decay, int scaled) {
    const float factor = clip[0], keep = rates[1];
    if (factor == 0.f) return;
    const long long* matrix = matrices + 5 * blockIdx.x;
    const long long rows = matrix[1], columns = matrix[2], n = rows * columns, at = matrix[0];
    float* row = row_means + matrix[3];
    float* column = column_means + matrix[4];

    float length = 0.f;
    for (long long i = threadIdx.x; i < n; i += blockDim.x) length += p[at + i] * p[at + i];
    length = block_sum(length);
    const float scale = scaled ? fmaxf(eps2, sqrtf(length / n)) : 1.f, rate = rates[0] * scale;

    // A warp a row, then a thread a column.
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (long long first = 0; first < rows; first += warps) {
        const long long r = first + threadIdx.x / 32;
        float sum = 0.f;
        if (r < rows)
            for (long long c = lane; c < columns; c += 32) {
                const float gradient = g[at + r * columns + c] * factor;
                sum += gradient * gradient + eps1;
            }
        sum = warp_sum(sum);
        if (r < rows && lane == 0) row[r] = keep * row[r] + (1.f - keep) * (sum / columns);
    }
    for (long long c = threadIdx.x; c < columns; c += blockDim.x) {
        float sum = 0.f;
        for (long long r = 0; r < rows; r++) {
            const float gradient = g[at + r * columns + c] * factor;
            sum += gradient * gradient + eps1;
        }
        column[c] = keep * column[c] + (1.f - keep) * (sum / rows);
    }
    __syncthreads();

    float mean = 0.f;
    for (long long r = threadIdx.x; r < rows; r += blockDim.x) mean += row[r];
    mean = block_sum(mean) / rows;
    float square = 0.f;
    for (long long i = threadIdx.x; i < n; i += blockDim.x) {
        const float u = g[at + i] * factor / (sqrtf(row[i / columns] / mean) * sqrtf(column[i % columns]));
        square += u * u;
    }
    square = block_sum(square);
    const float by = rate / fmaxf(1.f, sqrtf(square / n) / threshold);
    for (long long i = threadIdx.x; i < n; i += blockDim.x) {
        float u = by * (g[at + i] * factor / (sqrtf(row[i / columns] / mean) * sqrtf(column[i % columns])));
        if (keep_first > 0.f) {
            u = keep_first * m[at + i] + (1.f - keep_first) * u;
            m[at + i] = u;
        }
        p[at + i] = p[at + i] - decay * rate * p[at + i] - u;
        store(copy, at + i, p[at + i]);
    }
}
