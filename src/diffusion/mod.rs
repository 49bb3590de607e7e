//! The diffusion process: the noise schedule, what the network predicts, and the samplers that run it backwards.

pub mod config;
mod ddim;
mod ddpm;
mod dpm_solver;
mod euler;
mod euler_ancestral;
pub mod guidance;
mod lcm;
mod pndm;
pub mod prediction;
pub mod sampler;
pub mod schedule;
pub mod sigmas;
pub mod timesteps;
mod unipc;

pub use config::SchedulerConfig;
pub use prediction::Prediction;
pub use sampler::Sampler;
pub use schedule::NoiseSchedule;
