//! What products launch on a device whose matrix units take TF32, without such a device: a server that runs nothing and
//! notes what it was asked to run. A kernel's id holds the types that it multiplies in.
#![allow(unsafe_code)] // the trait's launch is unsafe to call

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use burn::backend::{Bytes, DType, DeviceId, DeviceService, ServerUtilitiesHandle, ServiceId, Shape, StreamId};
use burn_cubecl::CubeDevice;
use burn_cubecl::cubecl::device::CudaDevice;
use burn_cubecl::cubecl::features::{Features, MmaConfig, TypeUsage};
use burn_cubecl::cubecl::ir::{
    DeviceIdentity, DeviceProperties, ElemType, FloatKind, HardwareProperties, MemoryDeviceProperties, TargetProperties,
};
use burn_cubecl::cubecl::profile::TimingMethod;
use burn_cubecl::tensor::CubeTensor;
use cubecl_runtime::client::Client;
use cubecl_runtime::dry_run::LaunchMode;
use cubecl_runtime::kernel::CubeKernel;
use cubecl_runtime::logging::{ProfileDuration, ServerLogger};
use cubecl_runtime::memory_management::{ManagedMemoryHandle, MemoryAllocationMode, StreamMemoryReport};
use cubecl_runtime::server::*;
use cubecl_runtime::storage::{ComputeStorage, ManagedResource, StorageHandle, StorageId};
use cubek::matmul::multi_level::Strategy;

use crate::Arithmetic;
use crate::cube::dense::{has_tf32, launch, product, strategies};

type Later<T> = Pin<Box<dyn Future<Output = Result<T, ServerError>> + Send>>;

/// A device on paper.
#[derive(Debug)]
struct Paper {
    utilities: Arc<ServerUtilities>,
    launched: Arc<Mutex<Vec<String>>>,
}

impl DeviceService for Paper {
    fn init(_: DeviceId) -> Self {
        unimplemented!("made by hand")
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone()
    }
}

impl ServerCommunication for Paper {}

impl Server for Paper {
    fn initialize_memory(&mut self, _: ManagedMemoryHandle, _: u64, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities> {
        self.utilities.clone()
    }

    fn read(&mut self, _: Vec<CopyDescriptor>, _: StreamId) -> Later<Vec<Bytes>> {
        unimplemented!("nothing is there to be read")
    }

    fn write(&mut self, _: Vec<(CopyDescriptor, Bytes)>, _: StreamId) {}

    fn sync(&mut self, _: Vec<BufferBinding>, _: StreamId) -> Later<()> {
        Box::pin(async { Ok(()) })
    }

    fn check(&mut self, _: Vec<BufferBinding>, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    unsafe fn launch(
        &mut self,
        kernel: Box<dyn CubeKernel>,
        _: CubeCount,
        _: KernelArguments,
        _: StreamId,
        _: LaunchMode,
    ) {
        self.launched.lock().unwrap().push(format!("{:?}", kernel.id()));
    }

    fn flush(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_report(&mut self, _: StreamId) -> Option<StreamMemoryReport> {
        None
    }

    fn memory_cleanup(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn start_profile(&mut self, _: StreamId) -> Result<ProfilingToken, ServerError> {
        unimplemented!("nothing is measured")
    }

    fn end_profile(&mut self, _: StreamId, _: ProfilingToken) -> Result<ProfileDuration, ProfileError> {
        unimplemented!("nothing is measured")
    }

    fn allocation_mode(&mut self, _: MemoryAllocationMode, _: StreamId) {}
}

/// It holds nothing.
struct Nothing;

impl ComputeStorage for Nothing {
    type Resource = ();

    fn alignment(&self) -> usize {
        512
    }

    fn get(&mut self, _: &StorageHandle) -> Result<(), IoError> {
        Ok(())
    }

    fn alloc(&mut self, _: u64) -> Result<StorageHandle, IoError> {
        unimplemented!("nothing is allocated")
    }

    fn dealloc(&mut self, _: StorageId) {}

    fn flush(&mut self) {}

    fn bytes_allocated(&self) -> u64 {
        0
    }
}

impl ServerStorage for Paper {
    type Storage = Nothing;

    fn get_resource(&mut self, _: BufferBinding, _: StreamId) -> Result<ManagedResource<()>, ServerError> {
        unimplemented!("nothing is there to be had")
    }
}

/// Row by row, one tensor a handle.
struct Rows;

impl MemoryLayoutPolicy for Rows {
    fn apply(
        &self,
        service: ServiceId,
        stream: StreamId,
        wanted: &[MemoryLayoutDescriptor],
    ) -> (Handle, Vec<MemoryLayout>) {
        let [one] = wanted else { panic!("tensors are made one by one") };
        let handle = Handle::new(service, stream, (one.shape.num_elements() * one.elem_size) as u64);
        let steps = (0..one.shape.num_dims()).map(|axis| one.shape[axis + 1..].iter().product());
        (handle.clone(), vec![MemoryLayout::new(handle, steps.collect::<Vec<usize>>())])
    }
}

const F32: ElemType = ElemType::Float(FloatKind::F32);
const TF32: ElemType = ElemType::Float(FloatKind::TF32);

/// An Ampere card, as far as products ask.
fn ampere() -> DeviceProperties {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 32,
        max_shared_memory_size: 99 << 10,
        max_cube_count: (i32::MAX as u32, 65_535, 65_535),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(108),
        num_cpu_cores: None,
        last_level_cache_size: None,
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        max_vector_size: 16,
        cube_mma_reserved_shared_memory: 0,
    };
    let memory = MemoryDeviceProperties::new(1 << 30, 512);
    let mut properties =
        DeviceProperties::new(Features::default(), memory, hardware, TimingMethod::System, DeviceIdentity::default());
    properties.register_type_usage(F32, TypeUsage::all());
    properties.register_type_usage(TF32, TypeUsage::Conversion);
    let mma = MmaConfig { a_type: TF32, b_type: TF32, cd_type: F32, m: 16, n: 16, k: 8 };
    properties.features.matmul.cmma.insert(mma);
    properties
}

/// A device of such a card, and what was launched there so far.
fn paper() -> (Client, Arc<Mutex<Vec<String>>>) {
    // Its own among all types of devices.
    let id = DeviceId { type_id: 250, index_id: 0 };
    let service = ServiceId::of::<Paper>(id);
    let logger = Arc::new(ServerLogger::default());
    let (utilities, _) = ServerUtilities::init(service, "paper", ampere(), TargetProperties::default(), logger, Rows);
    let launched = Arc::new(Mutex::new(Vec::new()));
    let server = Paper { utilities: Arc::new(utilities), launched: launched.clone() };
    (Client::init(id, server), launched)
}

#[test]
fn f32_products_launch_nothing_in_tf32() {
    let (client, launched) = paper();
    let tensor = |rows: usize, cols: usize| {
        let (device, handle) = (CubeDevice::Cuda(CudaDevice::default()), client.empty(rows * cols * 4));
        CubeTensor::new_contiguous(client.clone(), device, Shape::from([rows, cols]), handle, DType::F32)
    };
    let seen = || {
        client.flush().unwrap();
        std::mem::take(&mut *launched.lock().unwrap())
    };
    assert!(has_tf32(&tensor(1, 1)));
    for [m, k, n] in [[37, 40, 24], [1024, 768, 768], [1, 64, 512], [512, 64, 1], [8, 8, 8]] {
        for strategy in strategies().into_iter().map(|(strategy, _)| strategy).chain([Strategy::Naive]) {
            launch(&strategy, tensor(m, k), tensor(k, n), tensor(m, n)).unwrap_or_else(|why| println!("{why}"));
            for kernel in seen() {
                assert!(!kernel.contains("TF32"), "{strategy} on {m} x {k} x {n} launches {kernel}");
            }
        }
        product(tensor(m, k), tensor(k, n), Arithmetic::F32, false);
        let kernels = seen();
        assert!(!kernels.is_empty() && !kernels.iter().any(|kernel| kernel.contains("TF32")), "{kernels:?}");
    }
    // What CubeK takes of itself there: this is how such a kernel looks.
    let own = Strategy::SimpleCyclicCmma(Default::default());
    launch(&own, tensor(1024, 768), tensor(768, 768), tensor(1024, 768)).unwrap();
    let kernels = seen();
    assert!(kernels.iter().any(|kernel| kernel.contains("TF32")), "{kernels:?}");
}
