// What every optimizer begins an update with.
#pragma once

// The learning rate of the update that is made now, which it counts: one thread calls it. progress [3]: the loss scale, updates
// since it last changed, all updates; what is skipped (clip[0] = 0) is no update. lr [count]: one for each update, the last
// also for all that follow, so that a skipped step does not move the schedule. An interval of 0 leaves the scale alone.
DEV float next_rate(float* progress, const float* clip, const float* lr, int count, int interval) {
    const float rate = lr[progress[2] < count ? (int)progress[2] : count - 1];
    const bool skipped = clip[0] == 0.f;
    if (!skipped) {
        progress[1] += 1.f;
        progress[2] += 1.f;
    }
    if (interval && (skipped || progress[1] >= interval)) {
        progress[0] *= skipped ? .5f : 2.f;
        progress[1] = 0.f;
    }
    return rate;
}

// 1 - (1 - take)^t
DEV double one_minus_power(float take, double t) { return -expm1(t * log1p(-(double)take)); }
