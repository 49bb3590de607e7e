//! Devices that change a little of another one.

/// The methods of [`Backend`](super::Backend) that are those of `self.backend()`, for the body of an implementation that has its own
/// `renew` and `queue`.
macro_rules! forwarded {
    () => {
        fn name(&self) -> String {
            self.backend().name()
        }

        fn identity(&self) -> $crate::device::gpu::identity::Identity {
            self.backend().identity()
        }

        fn is_simulated(&self) -> bool {
            self.backend().is_simulated()
        }

        fn runs_hopper(&self) -> bool {
            self.backend().runs_hopper()
        }

        fn allocate(&self, bytes: usize) -> $crate::error::Result<Option<u64>> {
            self.backend().allocate(bytes)
        }

        fn free(&self, address: u64) {
            self.backend().free(address);
        }

        fn room(&self) -> $crate::error::Result<Option<[u64; 2]>> {
            self.backend().room()
        }

        fn upload(&self, data: &[u8], to: u64) -> $crate::error::Result<()> {
            self.backend().upload(data, to)
        }

        fn stage(&self, data: &[u8], to: u64) -> $crate::error::Result<()> {
            self.backend().stage(data, to)
        }

        fn download(&self, from: u64, to: &mut [u8]) -> $crate::error::Result<()> {
            self.backend().download(from, to)
        }

        fn seconds(&self, work: &mut dyn FnMut() -> $crate::error::Result<()>) -> $crate::error::Result<f64> {
            self.backend().seconds(work)
        }
    };
}

pub(super) use forwarded;
