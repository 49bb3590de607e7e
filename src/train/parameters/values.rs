//! The values of flat parameters in the order of the parameters, and what training states hold of them.

use super::FlatParameters;
use super::group::Group;
use crate::error::Result;
use crate::ops::optimizer::{self, DISTANCE, Progress};
use crate::tensor::{DType, Tensor};

/// Names in training states, beside those of the optimizer.
const MASTER: &str = "master";
/// Of runs that keep an average.
const AVERAGE: &str = "average";
/// [`Progress::values`] of runs whose loss scale changes; any other run has made an update at every step.
const PROGRESS: &str = "progress";

/// The name of group `number`'s `name` in training states.
fn in_states(name: &str, number: usize) -> String {
    if number == 0 { name.to_owned() } else { format!("{name}.{number}") }
}

impl FlatParameters {
    /// A parameter after the other from a tensor of each group.
    fn together(&self, groups: &[Tensor]) -> Tensor {
        if let [one] = groups {
            return one.clone();
        }
        let mut all = Vec::with_capacity(self.len());
        for (param, &(number, offset)) in self.params.iter().zip(&self.places) {
            all.extend_from_slice(&groups[number].data::<f32>()[offset..offset + param.get().len()]);
        }
        let len = all.len();
        Tensor::new(all, &[len])
    }

    /// The values of each group, on the CPU, from those of a parameter after the other.
    pub(super) fn apart(&self, values: &[f32]) -> Vec<Tensor> {
        let mut groups = vec![Vec::new(); self.groups.len()];
        let mut rest = values;
        for (param, &(number, _)) in self.params.iter().zip(&self.places) {
            let (head, tail) = rest.split_at(param.get().len());
            groups[number].extend_from_slice(head);
            rest = tail;
        }
        groups.into_iter().map(|values| Tensor::new(values.clone(), &[values.len()])).collect()
    }

    /// The master copy, f32 `[n]` on the CPU, in the order of the parameters, as below.
    ///
    /// # Errors
    /// What a GPU says, here and below.
    pub fn master(&self) -> Result<Tensor> {
        let groups: Vec<Tensor> = self.groups.iter().map(|group| group.flat.values.to_cpu()).collect::<Result<_>>()?;
        Ok(self.together(&groups))
    }

    /// The gradient that has been added up since the last update, times the loss scale; f32 `[n]` on the CPU.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn gradient(&self) -> Result<Tensor> {
        let gradient = self.gradient.to_cpu()?;
        let part = |group: &Group| gradient.view(group.start, group.flat.values.shape());
        Ok(self.together(&self.groups.iter().map(part).collect::<Vec<_>>()))
    }

    /// The running average of the master copy, where the run or its optimizer keeps one; f32 `[n]` on the CPU.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn average(&self) -> Result<Option<Tensor>> {
        let mut averages = Vec::new();
        for group in &self.groups {
            match group.result()? {
                Some(average) => averages.push(average.to_cpu()?),
                None => return Ok(None),
            }
        }
        Ok(Some(self.together(&averages)))
    }

    /// How far Prodigy believes the values to be from where they end: its learning rate is this times the given one.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn distance(&self) -> Result<Option<f64>> {
        match self.groups[0].flat.state.iter().find(|(name, _)| *name == DISTANCE) {
            Some((_, distance)) => Ok(Some(distance.view(0, &[1]).to_cpu()?.item())),
            None => Ok(None),
        }
    }

    /// What the optimizer keeps, by name in states, on the CPU.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let groups = self.groups.iter().enumerate();
        let states = groups.flat_map(|(number, group)| group.flat.state.iter().map(move |state| (number, state)));
        states.map(|(number, (name, x))| Ok((in_states(name, number), x.to_cpu()?))).collect()
    }

    /// All that a training state holds, by name, on the CPU.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn saved(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = vec![(MASTER.to_owned(), self.master()?)];
        all.extend(self.state()?);
        all.extend(self.average()?.map(|average| (AVERAGE.to_owned(), average)));
        if self.adapts() {
            all.push((PROGRESS.to_owned(), self.groups[0].progress.to_cpu()?));
        }
        Ok(all)
    }

    /// Takes what [`FlatParameters::saved`] gave after `step` steps, from `read`, which is told name, dtype and length.
    ///
    /// # Errors
    /// What `read` or a GPU says.
    pub fn restore(&mut self, step: u64, read: impl Fn(&str, DType, usize) -> Result<Tensor>) -> Result<()> {
        let device = self.device();
        let values = self.apart(read(MASTER, DType::F32, self.len())?.data());
        let averages = match self.groups[0].average {
            Some(_) => Some(self.apart(read(AVERAGE, DType::F32, self.len())?.data())),
            None => None,
        };
        let progress = Progress { updates: step, ..self.progress()? }.tensor();
        let progress = match self.adapts() {
            true => read(PROGRESS, progress.dtype(), progress.len())?.with_shape(progress.shape()),
            false => progress,
        };
        for (number, (group, values)) in self.groups.iter_mut().zip(values).enumerate() {
            group.flat.values = values.to(&device)?;
            for (name, x) in &mut group.flat.state {
                let saved = read(&in_states(name, number), x.dtype(), x.len())?;
                *x = saved.with_shape(x.shape()).to(&device)?;
            }
            if let Some(averages) = &averages {
                group.average = Some(averages[number].to(&device)?);
            }
            // A copy of its own for each: they are changed in place.
            group.progress = progress.to_cpu()?.with_shape(progress.shape()).to(&device)?;
            group.flat.copy = optimizer::copy(&group.flat.values, group.flat.copy.dtype())?;
        }
        self.step = step;
        self.publish();
        Ok(())
    }
}
