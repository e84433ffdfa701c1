//! The state of the simulated Pipedrive: one mutex over settings, people, grants, faults and counters.

pub(crate) mod books;
pub(crate) mod grants;
pub(crate) mod holder;
pub(crate) mod log;
pub(crate) mod people;
pub(crate) mod tokens;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use actix_web::web::Bytes;
use tokio::sync::watch;

use crate::app::App;
use crate::faults::Faults;
use crate::outside::Random;
use crate::settings::Settings;
use books::Counters;
use grants::Grants;
use log::Log;
use people::Company;

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) apps: Vec<App>,
    initial: Settings,
    world: Mutex<World>,
    /// Moves at every reset, so that connections held by a fault are let go.
    resets: watch::Sender<u64>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) faults: Faults,
    pub(crate) counters: Counters,
    pub(crate) grants: Grants,
    pub(crate) log: Log,
    pub(crate) companies: BTreeMap<u64, Company>,
    pub(crate) random: Random,
    users: HashMap<(u64, u64), Bytes>,
}

impl Shared {
    pub(crate) fn new(apps: Vec<App>, settings: Settings, seed: Option<u64>) -> Self {
        let world = World {
            settings: settings.clone(),
            faults: Faults::default(),
            counters: Counters::default(),
            grants: Grants::default(),
            log: Log::default(),
            companies: BTreeMap::new(),
            random: Random::new(seed),
            users: HashMap::new(),
        };
        Self {
            apps,
            initial: settings,
            world: Mutex::new(world),
            resets: watch::Sender::new(0),
        }
    }

    /// Never held across an `await`. A panic elsewhere leaves the books readable.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn app(&self, client_id: &str) -> Option<&App> {
        self.apps.iter().find(|app| app.client_id == client_id)
    }

    pub(crate) fn reset(&self, scope: Reset) {
        let mut world = self.world();
        world.settings = self.initial.clone();
        world.faults = Faults::default();
        world.counters = Counters::default();
        if scope == Reset::WorldToo {
            world.grants = Grants::default();
            world.companies.clear();
            world.users.clear();
        }
        drop(world);
        self.let_go();
    }

    /// Ends the waiting of every connection that a fault holds.
    pub(crate) fn let_go(&self) {
        self.resets.send_modify(|count| *count += 1);
    }

    pub(crate) fn resets(&self) -> watch::Receiver<u64> {
        self.resets.subscribe()
    }
}

/// How far a reset goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    /// Counters, settings and faults; grants and people stay.
    Controls,
    WorldToo,
}

impl World {
    /// Companies come into being when they are named for the first time.
    pub(crate) fn company(&mut self, id: u64) -> &mut Company {
        self.companies.entry(id).or_insert_with(|| Company::new(id))
    }

    pub(crate) fn user_body(&mut self, company_id: u64, user_id: u64) -> Bytes {
        if let Some(body) = self.users.get(&(company_id, user_id)) {
            return body.clone();
        }
        let body = self.company(company_id).user_body(user_id);
        self.users.insert((company_id, user_id), body.clone());
        body
    }
}
