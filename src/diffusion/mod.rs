//! The diffusion process: the noise schedule, what the network predicts, and the samplers that run it backwards.

pub mod config;
mod ddim;
mod ddpm;
mod deis;
mod dpm_sde;
mod dpm_singlestep;
mod dpm_solver;
mod euler;
mod euler_ancestral;
pub mod guidance;
mod heun;
mod kdpm2;
mod lcm;
mod lms;
pub mod names;
mod pndm;
pub mod prediction;
pub mod sampler;
pub mod schedule;
pub mod sigmas;
mod tcd;
pub mod timesteps;
mod unipc;

pub use config::SchedulerConfig;
pub use prediction::Prediction;
pub use sampler::Sampler;
pub use schedule::NoiseSchedule;
