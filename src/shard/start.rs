//! Owns the broker's life: one pinned executor a core, the order in which they come up, and the clean stop.
//! The first core leads: it runs the controller, hears the signals, and tells the others.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use coati_tuning::profile::{Preset, Role};
use futures::future::{Either, select};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use tracing::{info, warn};

use crate::admin;
use crate::config::BrokerConfig;
use crate::controller::boot::{self, BootError};
use crate::ids::ShardId;
use crate::io::process::{self, FolderLock, StopSignals};
use crate::io::socket::BoundListener;
use crate::io::{Disk, clock, entropy, huge_pages, ring, timer, turn, watchdog};
use crate::limits;
use crate::log::checkpoints::{META_PROPERTIES_FILE, MetaProperties};
use crate::log::directory;
use crate::log::journal::{Journal, JournalLimits, replay};
use crate::log::{LogContext, TailBudget};
use crate::net::seats::{Bounds, Connections};
use crate::net::{listener, live};
use crate::protocol::{Str, Uuid};
use crate::shard::layout::{Duty, Layout};
use crate::shard::mesh::{self, Mesh, MeshEnds};
use crate::shard::{Broker, Shard, checkpoints, cleaner, coordinators, sync};
use crate::stages::tasks::{self, Task};

/// Memory that glommio registers for its own files, of which there are none: its least.
const EXECUTOR_IO_BYTES: usize = 64 << 10;

const EXECUTOR_NAME: &str = "shard";

/// A core that is not up after so long is woken.
const START_NUDGE: Duration = Duration::from_millis(100);

/// How long a start waits for its predecessor's address.
const BIND_PATIENCE: Duration = Duration::from_secs(1);
const BIND_RETRY: Duration = Duration::from_millis(10);

/// How long a stop waits for clients to take their last answers.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Why the broker did not start, in a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the data folder {folder} cannot be used: {error}")]
    Folder { folder: String, error: io::Error },
    #[error(
        "the data folder {folder} is in use by another broker; stop that one, or name another folder with --data-dir"
    )]
    Locked { folder: String },
    #[error("{file}: {reason}")]
    Identity { file: String, reason: String },
    #[error(
        "cannot listen on {address}: {error}; is another broker running there? (--listen HOST:PORT names another address)"
    )]
    Listen { address: String, error: io::Error },
    #[error(
        "cannot serve the admin endpoint on {address}: {error}; --admin HOST:PORT names another address, --admin off does without"
    )]
    Admin { address: String, error: io::Error },
    #[error("--cores {wanted}: this process may run on {allowed} cores")]
    Cores { wanted: usize, allowed: usize },
    #[error(
        "io_uring is not available ({0}): Coati needs Linux 6.1 or newer with kernel.io_uring_disabled=0, a container's \
         seccomp profile that allows io_uring_setup, and enough locked memory (LimitMEMLOCK=infinity or `ulimit -l unlimited`)"
    )]
    IoUring(String),
    #[error(transparent)]
    Metadata(#[from] BootError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs the broker until a signal stops it.
pub fn run(mut config: BrokerConfig) -> Result<(), StartError> {
    let began = clock::now();
    process::block_stop_signals()?;
    watchdog::start();
    huge_pages::start();
    let descriptors = process::raise_descriptor_limit()?;
    let _lock = take_folder(&config.data_dir)?;
    let layout = Layout::new(&config, &choose_cpus(&config)?);
    let listeners = bind(&mut config)?;
    let admin = bind_admin(&config)?;
    let broker = Arc::new(introduce(config, layout)?);
    info!(
        descriptors,
        cluster = %broker.cluster_id,
        folder = %broker.config.data_dir.display(),
        "starting"
    );
    let (report, reports) = mpsc::channel();
    let mut executors = Vec::new();
    for (index, ends) in mesh::ends(broker.shards)?.into_iter().enumerate() {
        let id = ShardId(index as u16);
        let seed = Seed {
            id,
            broker: broker.clone(),
            ends,
            listeners: clone_all(&listeners)?,
            admin: admin.as_ref().map(BoundListener::try_clone).transpose()?,
            began,
            report: report.clone(),
        };
        let executor = LocalExecutorBuilder::new(Placement::Fixed(broker.layout.plan(id).cpu))
            .name(&format!("{EXECUTOR_NAME}-{index}"))
            .io_memory(EXECUTOR_IO_BYTES)
            .spawn(move || seed.grow())
            .map_err(|error| StartError::IoUring(error.to_string()))?;
        executors.push(Some(executor));
    }
    drop((report, listeners, admin));
    wait_until_up(&reports, &mut executors)?;
    // The leader ends when all others have closed their logs; they end with the process.
    let leader = executors
        .swap_remove(0)
        .expect("only a core that is down is joined before");
    joined(leader)
}

type Executor = ExecutorJoinHandle<Result<(), StartError>>;

/// Every core says that it is up; one that went down instead says why when it is joined.
fn wait_until_up(
    reports: &mpsc::Receiver<ShardId>,
    executors: &mut [Option<Executor>],
) -> Result<(), StartError> {
    let mut up: Vec<ShardId> = Vec::new();
    loop {
        match reports.recv_timeout(START_NUDGE) {
            Ok(shard) => up.push(shard),
            // `io::watchdog` says what an executor may fall into.
            Err(mpsc::RecvTimeoutError::Timeout) => process::interrupt_threads(EXECUTOR_NAME)?,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    for (index, executor) in executors.iter_mut().enumerate() {
        if !up.contains(&ShardId(index as u16)) {
            joined(executor.take().expect("joined once"))?;
            return Err(StartError::IoUring("an executor ended at once".into()));
        }
    }
    Ok(())
}

fn joined(executor: Executor) -> Result<(), StartError> {
    let ended = executor.join();
    ended.map_err(|error| StartError::IoUring(error.to_string()))?
}

fn take_folder(folder: &Path) -> Result<FolderLock, StartError> {
    let name = folder.display().to_string();
    let refused = |error| StartError::Folder {
        folder: name.clone(),
        error,
    };
    process::create_folder(folder).map_err(refused)?;
    FolderLock::take(folder).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StartError::Locked {
            folder: name.clone(),
        },
        _ => refused(error),
    })
}

/// The CPUs to pin shards to when no profile names them: all that the process may use, or the first `--cores` of them.
fn choose_cpus(config: &BrokerConfig) -> Result<Vec<usize>, StartError> {
    let mut cpus = process::allowed_cpus()?;
    if let Some(wanted) = config.cores {
        if wanted == 0 || wanted > cpus.len() {
            return Err(StartError::Cores {
                wanted,
                allowed: cpus.len(),
            });
        }
        cpus.truncate(wanted);
    }
    cpus.truncate(usize::from(limits::SHARDS_MAX));
    Ok(cpus)
}

/// Reads who this broker is from its data folder, or makes it somebody at its first start.
fn introduce(config: BrokerConfig, layout: Layout) -> Result<Broker, StartError> {
    let path = config.data_dir.join(META_PROPERTIES_FILE);
    let wrong = |reason: String| StartError::Identity {
        file: path.display().to_string(),
        reason,
    };
    let known = process::read_small_file(&path)?
        .map(|text| MetaProperties::parse(&text))
        .transpose()
        .map_err(|error| wrong(error.to_string()))?;
    let identity = match known {
        Some(identity) => identity,
        None => {
            let made = MetaProperties {
                cluster_id: Uuid(entropy::uuid()).to_string(),
                node_id: config.node_id,
                directory_id: Some(Uuid(entropy::uuid())),
            };
            process::write_small_file(&path, &made.format(clock::wall_ms()))?;
            made
        }
    };
    if identity.node_id != config.node_id {
        return Err(wrong(format!(
            "the folder belongs to node.id {}, the configuration says {}",
            identity.node_id, config.node_id
        )));
    }
    Ok(Broker {
        connections: Connections::new(&layout, Bounds::new(&config)),
        config: Arc::new(config),
        cluster_id: Str::from(identity.cluster_id),
        directory_id: identity.directory_id.unwrap_or(Uuid(entropy::uuid())),
        incarnation: Uuid(entropy::uuid()),
        shards: layout.shards(),
        layout,
    })
}

type NamedListener = (Str, BoundListener);

/// Binds every listener; one on port 0 learns which port it got.
fn bind(config: &mut BrokerConfig) -> Result<Vec<NamedListener>, StartError> {
    let backlog = config.socket_listen_backlog;
    config
        .listeners
        .iter_mut()
        .map(|listener| {
            let address = format!("{}:{}", listener.host, listener.port);
            let refused = |error| StartError::Listen {
                address: address.clone(),
                error,
            };
            let address = resolve(&listener.host, listener.port).map_err(refused)?;
            let bound = bind_patiently(address, backlog).map_err(refused)?;
            listener.port = bound.local_address()?.port();
            Ok((Str::from(listener.name.clone()), bound))
        })
        .collect()
}

/// The kernel takes a killed broker's io_uring apart, and with it its sockets, only after the process is gone.
fn bind_patiently(address: SocketAddr, backlog: Option<i32>) -> io::Result<BoundListener> {
    let deadline = clock::now() + BIND_PATIENCE;
    loop {
        match BoundListener::bind(address, backlog) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && clock::now() < deadline => {
                std::thread::sleep(BIND_RETRY);
            }
            bound => return bound,
        }
    }
}

/// Several brokers on one machine need not be told of each other: the default address goes to the first.
fn bind_admin(config: &BrokerConfig) -> Result<Option<BoundListener>, StartError> {
    let Some(listener) = &config.admin else {
        return Ok(None);
    };
    let name = format!("{}:{}", listener.host, listener.port);
    let bound = resolve(&listener.host, listener.port).and_then(|address| match listener.given {
        true => bind_patiently(address, None),
        false => BoundListener::bind(address, None),
    });
    let refused = |error| StartError::Admin {
        address: name.clone(),
        error,
    };
    match bound {
        Ok(bound) => {
            let address = bound.local_address().map_err(refused)?;
            info!(url = %format_args!("http://{address}"), "admin endpoint");
            if !address.ip().is_loopback() {
                warn!(
                    "whoever reaches the admin endpoint may read all of it: it knows no passwords"
                );
            }
            Ok(Some(bound))
        }
        Err(error) if !listener.given => {
            warn!(address = name, %error, "no admin endpoint; --admin HOST:PORT names another address");
            Ok(None)
        }
        Err(error) => Err(refused(error)),
    }
}

fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    (host, port)
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

fn clone_all(listeners: &[NamedListener]) -> io::Result<Vec<NamedListener>> {
    listeners
        .iter()
        .map(|(name, bound)| Ok((name.clone(), bound.try_clone()?)))
        .collect()
}

/// What crosses to a core's thread, there to become a shard.
struct Seed {
    id: ShardId,
    broker: Arc<Broker>,
    ends: MeshEnds,
    listeners: Vec<NamedListener>,
    /// Served by the core whose duty it is, closed by the one that leads.
    admin: Option<BoundListener>,
    began: Instant,
    /// Dropped without a word when the core does not come up.
    report: mpsc::Sender<ShardId>,
}

thread_local! {
    /// This core's listening sockets, until it is told to accept.
    static LISTENERS: RefCell<Vec<NamedListener>> = const { RefCell::new(Vec::new()) };
}

impl Seed {
    async fn grow(self) -> Result<(), StartError> {
        ring::init_thread().map_err(|error| StartError::IoUring(error.to_string()))?;
        let _main_gave_up = self.report.send(self.id);
        drop(self.report);
        let plan = self.broker.layout.plan(self.id).clone();
        turn::set_length(plan.turn);
        if plan.stay_awake {
            turn::stay_awake();
        }
        if let Some(node) = plan.node
            && let Err(error) = process::prefer_memory_of(node)
        {
            warn!(core = self.id.0, node, %error, "the core's memory comes from any node");
        }
        let queue = glommio::executor().current_task_queue();
        let spawn = Rc::new(move |task| {
            let task = tasks::watched(Task::LOG, task);
            // Behind what is to run already: what that appends goes to the disk in one write.
            let spawned = glommio::spawn_local_into(task, queue);
            spawned
                .expect("the queue lives as long as the core")
                .detach();
        });
        let budget = TailBudget::new(plan.tail_cache_bytes);
        let mut logs = LogContext::new(Disk::direct(), spawn, budget);
        logs.writes = plan.writes;
        logs.journal = Some(Journal::new(
            logs.disk.clone(),
            logs.spawn.clone(),
            timer::real(),
            replay::path_of(&self.broker.config.data_dir, self.id.0),
            entropy::seed(),
            JournalLimits::within(plan.tail_cache_bytes),
        ));
        let mesh = Mesh::new(self.id, &self.ends);
        let shard = Shard::new(self.id, self.broker, mesh, logs);
        LISTENERS.set(self.listeners);
        Mesh::run(&shard, self.ends);
        if let Some(bound) = &self.admin
            && is_for(&shard, Duty::Admin)
        {
            let serving = admin::serve(shard.clone(), bound.try_clone()?, self.began);
            tasks::spawn(Task::ADMIN, serving).detach();
        }
        if self.id == super::CONTROLLER_SHARD {
            lead(shard, self.admin, self.began).await
        } else {
            std::future::pending().await
        }
    }
}

async fn lead(
    shard: Rc<Shard>,
    admin: Option<BoundListener>,
    began: Instant,
) -> Result<(), StartError> {
    let signals = StopSignals::watch()?;
    let mut listeners = LISTENERS.with_borrow(|listeners| clone_all(listeners))?;
    if let Some(bound) = admin {
        listeners.push((Str::from("ADMIN"), bound));
    }
    let folder = directory::take_stock(&shard.logs.disk, &shard.broker.config.data_dir).await?;
    let deleted = folder.deleted.clone();
    unless_stopped(&signals, boot::start(&shard, folder)).await??;
    shard.everywhere(|shard| async move { accept(shard) }).await;
    announce(&shard, began);
    let core = shard.broker.layout.core_for(Duty::Deletion);
    let removing = shard.mesh.call(&shard, core, |shard| async move {
        tasks::spawn(Task::DELETION, remove_deleted(shard, deleted)).detach();
    });
    removing.await;
    signals.next().await?;
    info!("stopping: a second signal stops at once");
    glommio::spawn_local(async move {
        if signals.next().await.is_ok() {
            warn!("stopped at once; the next start recovers");
            std::process::exit(130);
        }
    })
    .detach();
    stop(&shard, &listeners).await
}

/// Boots, but for a signal: then nothing has been promised to anybody yet.
async fn unless_stopped<T>(signals: &StopSignals, boot: impl Future<Output = T>) -> io::Result<T> {
    match select(pin!(boot), pin!(signals.next())).await {
        Either::Left((booted, _)) => Ok(booted),
        Either::Right((signal, _)) => {
            signal?;
            warn!("stopped while starting; the next start recovers");
            std::process::exit(130);
        }
    }
}

/// Takes off the folders whose time came while no broker ran.
async fn remove_deleted(shard: Rc<Shard>, folders: Vec<PathBuf>) {
    for folder in folders {
        if let Err(error) = shard.logs.disk.remove_dir_all(&folder).await {
            warn!(folder = %folder.display(), %error, "removing a deleted log failed");
        }
    }
}

fn is_for(shard: &Shard, duty: Duty) -> bool {
    shard.broker.layout.core_for(duty) == shard.id
}

/// From now on it does what it is for.
fn accept(shard: Rc<Shard>) {
    shard.begin_to_serve();
    let roles = shard.plan().roles;
    let listeners = LISTENERS.take();
    if roles.has(Role::Network) {
        for (name, bound) in listeners {
            tasks::spawn(Task::ACCEPT, listener::accept(shard.clone(), bound, name)).detach();
        }
    }
    tasks::spawn(Task::UPKEEP, live::sweep(shard.clone())).detach();
    if roles.has(Role::Partitions) {
        tasks::spawn(Task::GROUPS, coordinators::keep_time(shard.clone())).detach();
        tasks::spawn(Task::CLEANER, cleaner::run(shard.clone())).detach();
    }
    if is_for(&shard, Duty::Checkpoints) {
        tasks::spawn(Task::CHECKPOINTS, checkpoints::keep(shard.clone())).detach();
    }
    tasks::spawn(Task::UPKEEP, shard.tick()).detach();
}

fn announce(shard: &Shard, began: Instant) {
    let config = &shard.broker.config;
    if let Some(profile) = &config.profile {
        let preset = profile.preset.map(Preset::name);
        info!(preset, connections = profile.connections.name(), "profile");
        shard.broker.layout.tell();
    }
    let listeners: Vec<String> = config
        .listeners
        .iter()
        .map(|listener| format!("{}://{}:{}", listener.name, listener.host, listener.port))
        .collect();
    info!(
        node = config.node_id.0,
        listeners = listeners.join(","),
        cores = shard.broker.shards,
        folder = %config.data_dir.display(),
        ms = began.elapsed().as_millis() as u64,
        "Kafka Server started"
    );
    // Without systemd there is nobody to tell.
    let _nobody = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// Every connection has its answers, every log is closed, the folder is marked clean.
async fn stop(shard: &Rc<Shard>, listeners: &[NamedListener]) -> Result<(), StartError> {
    let _nobody = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    shard
        .everywhere(|shard| async move { shard.begin_to_stop() })
        .await;
    for (_, listener) in listeners {
        listener.stop_listening()?;
    }
    shard
        .everywhere(|shard| async move { live::finish(shard, STOP_PATIENCE).await })
        .await;
    let closed = shard
        .everywhere(|shard| async move { sync::close_all(&shard).await })
        .await;
    boot::stop(shard, closed.into_iter().all(|is_clean| is_clean)).await?;
    info!("stopped");
    Ok(())
}
