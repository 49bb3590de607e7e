//! What a pickle of weights may hold. Containers are numbers of nodes in one list, so that neither depth nor cycles cost
//! anything when they are dropped.

use crate::tensor::DType;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    Global(Global),
    /// These are indices into [`super::machine::Objects`].
    List(usize),
    Tuple(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

/// The names that a pickle may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    OrderedDict,
    RebuildTensor,
    Storage(Element),
}

impl Global {
    pub fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch", name) => Element::of_storage(name).map(Self::Storage),
            _ => None,
        }
    }
}

/// The element type of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    Float,
    Double,
    Half,
    BFloat16,
    Long,
    Int,
    Byte,
    Bool,
}

impl Element {
    fn of_storage(name: &str) -> Option<Self> {
        Some(match name.strip_suffix("Storage")? {
            "Float" => Self::Float,
            "Double" => Self::Double,
            "Half" => Self::Half,
            "BFloat16" => Self::BFloat16,
            "Long" => Self::Long,
            "Int" => Self::Int,
            "Byte" => Self::Byte,
            "Bool" => Self::Bool,
            _ => return None,
        })
    }

    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            Self::Double | Self::Long => 8,
            Self::Float | Self::Int => 4,
            Self::Half | Self::BFloat16 => 2,
            Self::Byte | Self::Bool => 1,
        }
    }

    /// What tensors of it are read as.
    pub fn dtype(self) -> DType {
        match self {
            Self::Float => DType::F32,
            Self::Double => DType::F64,
            Self::Half => DType::F16,
            Self::BFloat16 => DType::Bf16,
            Self::Long | Self::Int | Self::Byte | Self::Bool => DType::I64,
        }
    }
}

/// `("storage", torch.XStorage, key, location, elements)`: the bytes are the archive's entry `data/KEY`.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage<'a> {
    pub element: Element,
    pub key: &'a str,
    pub len: usize,
}

/// A view of a storage; offset and strides count elements.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The index of the storage.
    pub storage: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

impl View {
    /// Whether its elements are some of a storage of `len`, none of them many times over.
    pub fn fits(&self, len: usize) -> bool {
        let count = self.shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size));
        if count == Some(0) {
            return self.offset <= len;
        }
        let mut axes = self.shape.iter().zip(&self.strides);
        let last = axes.try_fold(self.offset, |last, (&size, &stride)| {
            last.checked_add((size.checked_sub(1)?).checked_mul(stride)?)
        });
        count.is_some_and(|count| count <= len) && last.is_some_and(|last| last < len)
    }
}
