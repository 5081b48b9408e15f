//! The operator: has groups change their members and hand on the lead, and judges what comes of that.
//!
//! Invariant: of each partition the requests of one moment are open at most, and one change at a time can be made: so what an
//! outcome says can be seen in the group itself.

use std::collections::{BTreeMap, HashMap};

use corduroy_wal::Lsn;

use crate::ids::{MemberId, PartitionId, StorageId, Ticket};
use crate::raft::changes::Change;
use crate::raft::membership::Membership;
use crate::raft::requests::{MemberOutcome, MemberRequest};
use crate::shard::io::Input;
use crate::sim::history::Broken;
use crate::sim::node::{SimNode, SimShard};
use crate::sim::rng::Rng;
use crate::sim::workload::Subject;
use crate::sim::world::{Common, World};

/// The connection of the operator, which no client has.
const OPERATOR: u64 = u64::MAX;

/// What the operator has asked for.
#[derive(Debug)]
struct Asked {
    node: usize,
    partition: PartitionId,
    request: MemberRequest,
}

/// See the file's head.
#[derive(Default, Debug)]
pub(super) struct Operator {
    /// By their numbers.
    open: BTreeMap<u64, Asked>,
    /// Requests made.
    count: u64,
    /// The entry that made the members of a node's replica what they are, once it is applied.
    made_by: HashMap<(usize, PartitionId), Lsn>,
}

impl Operator {
    /// The process of a node has died: what it was asked has no outcome.
    pub(super) fn crashed(&mut self, node: usize) {
        self.open.retain(|_, asked| asked.node != node);
    }

    /// What a node's replica has left is deleted: another member begins there.
    pub(super) fn begins_anew(&mut self, node: usize, partition: PartitionId) {
        self.made_by.remove(&(node, partition));
    }

    /// The members of a node's replica are what they are by this entry: never by an earlier one than before, not even after a
    /// restart, since nothing behind the entry is applied before that is durable.
    pub(super) fn made_by(&mut self, node: usize, partition: PartitionId, lsn: Lsn) -> Result<(), Broken> {
        let before = self.made_by.insert((node, partition), lsn).unwrap_or_default();
        let what = || format!("partition {partition} on node {node}: by entry {lsn}, before by {before}");
        if lsn < before { Err(("changes of members are made once", what())) } else { Ok(()) }
    }
}

/// Who belongs to a partition's group, as a shard's log has it: what was founded, where no change was made yet.
pub(super) fn members_of<S: Subject>(shard: &SimShard<S>, partition: PartitionId) -> Option<Membership> {
    let conf = shard.wal().log_state(partition.log())?.conf?;
    Some(Membership::decode(&conf).expect("a shard has written it"))
}

/// What the operator asks the leader, a member of this group: drawn by chance, and not always what can be done.
fn draw_request(
    members: &Membership,
    leader: MemberId,
    free: &[StorageId],
    draw: u64,
) -> Option<MemberRequest> {
    let mut joins = Rng::new(draw, "members that join");
    if !free.is_empty() && joins.chance(400) {
        return Some(MemberRequest::Change(vec![Change::AddLearner(joins.pick(free))]));
    }
    let mut rng = Rng::new(draw, "request about members");
    let (voters, learners): (Vec<_>, Vec<_>) =
        members.ids().filter(|id| *id != leader).partition(|id| members.is_voter(*id));
    let mut one_of = |ids: &[MemberId]| (!ids.is_empty()).then(|| rng.pick(ids));
    let (voter, learner) = (one_of(&voters), one_of(&learners));
    let (demotion, promotion) = (voter.map(Change::Demote), learner.map(Change::Promote));
    let both = || demotion.into_iter().chain(promotion).collect::<Vec<_>>();
    let request = match rng.below(10) {
        0 | 1 => MemberRequest::Change(demotion.into_iter().collect()),
        2 | 3 => MemberRequest::Change(promotion.or(demotion).into_iter().collect()),
        4 if voters.len() > 1 && learners.is_empty() => {
            MemberRequest::Change(voters.iter().take(2).map(|id| Change::Demote(*id)).collect())
        }
        4 | 5 => MemberRequest::Change(both()),
        6 | 7 => MemberRequest::Transfer(voter?),
        8 => MemberRequest::Change(vec![Change::Remove(learner.or(voter)?)]),
        _ => MemberRequest::Change(vec![Change::Demote(leader)]),
    };
    let is_empty = matches!(&request, MemberRequest::Change(changes) if changes.is_empty());
    (!is_empty).then_some(request)
}

/// What is not as an outcome says that it is done.
fn missing(members: &Membership, request: &MemberRequest, lsn: Lsn) -> Option<String> {
    let MemberRequest::Change(changes) = request else { return None };
    let is_done = |change: &Change| match *change {
        Change::Promote(id) => members.is_voter(id),
        Change::Demote(id) => members.storage(id).is_some() && !members.is_voter(id),
        Change::AddLearner(storage) | Change::AddLearnerAt(storage, _) => {
            members.member_on(storage).is_some()
        }
        Change::Remove(id) => members.storage(id).is_none(),
    };
    // That several at once are all made may not be written yet, though it is agreed.
    let is_all_done = members.as_of >= lsn && changes.iter().all(is_done);
    (!is_all_done).then(|| format!("{changes:?} is done at {lsn}, and the members are {members:?}"))
}

impl<S: Subject> World<S> {
    /// The operator asks whoever leads a partition for a change of its members, or to hand on the lead.
    pub(super) fn ask_about_members(&mut self, partition: PartitionId, draw: u64) {
        self.start_joiners();
        let free = self.free_storages(partition);
        let Self { nodes, common } = self;
        let shard = common.shard_of(partition);
        if common.faults_over || common.operator.open.values().any(|asked| asked.partition == partition) {
            return;
        }
        let leaders = nodes.iter_mut().filter_map(|node| Some((node.leads(shard, partition)?, node)));
        let Some(((_, leader), node)) = leaders.max_by_key(|((term, _), _)| *term) else {
            return common.probe("no leader to ask about members");
        };
        let members = node.with_shard(shard, |shard| members_of::<S>(shard, partition)).flatten();
        let Some(members) = members else { return };
        // Now and then, another one at once.
        let draws = [Some(draw), draw.is_multiple_of(3).then_some(draw + 1)];
        for request in
            draws.into_iter().flatten().filter_map(|draw| draw_request(&members, leader, &free, draw))
        {
            node.asked_about_members(common, partition, request);
        }
    }

    /// Of the nodes whose replicas run: who belongs to a partition's group, as each of them has it.
    pub(super) fn members(&self, partition: PartitionId, nodes: &[usize]) -> Vec<(usize, Membership)> {
        let shard = self.common.shard_of(partition);
        let units = nodes.iter().filter_map(|node| Some((*node, self.nodes.get(*node)?.process.as_ref()?)));
        let shards = units.filter_map(|(node, process)| Some((node, &process.units.get(shard)?.shard)));
        shards.filter_map(|(node, shard)| Some((node, members_of::<S>(shard, partition)?))).collect()
    }
}

impl<S: Subject> World<S> {
    /// Every replica but these has the same members, and no change is under way.
    pub(super) fn compare_members(&self, partition: PartitionId, left_behind: &[usize]) {
        let nodes = (0..self.nodes.len()).filter(|node| !left_behind.contains(node)).collect::<Vec<_>>();
        let all = self.members(partition, &nodes);
        let first = all.first();
        for (node, members) in &all {
            if members.is_joint() || first.is_some_and(|(_, first)| first != members) {
                let what = format!("partition {partition}: {members:?} on node {node}, {first:?} first");
                self.common.broken("all replicas have the same members", what);
            }
        }
    }
}

impl<S: Subject> SimNode<S> {
    /// The term in which its replica of a partition leads, and as which member, if it does.
    fn leads(&self, shard: usize, partition: PartitionId) -> Option<(corduroy_wal::Term, MemberId)> {
        let shard = &self.process.as_ref()?.units.get(shard)?.shard;
        let replica = shard.replicas().find(|replica| replica.partition == partition)?;
        let leads = replica.role == raft::StateRole::Leader;
        replica.leader.filter(|_| leads).map(|member| (replica.term, member))
    }

    /// The operator asks it for something.
    pub(super) fn asked_about_members(
        &mut self,
        world: &mut Common<S>,
        partition: PartitionId,
        request: MemberRequest,
    ) {
        world.operator.count += 1;
        let (seq, shard) = (world.operator.count, world.shard_of(partition));
        world.note("members", partition.0, seq, request.kind() as u64);
        let asked = Asked { node: self.number, partition, request: request.clone() };
        world.operator.open.insert(seq, asked);
        let ticket = Ticket { conn: OPERATOR, seq };
        self.with_shard(shard, |shard| shard.handle(Input::Members { ticket, partition, request }));
        self.turn_soon(world, shard);
    }

    /// Outcomes of what the operator has asked one of its shards.
    pub(super) fn answer_operator(
        &mut self,
        world: &mut Common<S>,
        shard: usize,
        outcomes: Vec<(Ticket, MemberOutcome)>,
    ) {
        for (ticket, outcome) in outcomes {
            let asked = world.operator.open.remove(&ticket.seq).filter(|asked| asked.node == self.number);
            let Some(asked) = asked else {
                world.broken("one outcome per request", format!("{ticket:?} about members: {outcome:?}"));
                return;
            };
            let partition = asked.partition;
            world.note("members done", partition.0, ticket.seq, u64::from(outcome == MemberOutcome::Unknown));
            match outcome {
                MemberOutcome::Done(lsn) => {
                    world.probe(if asked.request.kind() == 5 {
                        "leads handed on"
                    } else {
                        "members changed"
                    });
                    let members = self.with_shard(shard, |shard| members_of::<S>(shard, partition)).flatten();
                    let wrong = members.and_then(|members| missing(&members, &asked.request, lsn));
                    if let Some(wrong) = wrong {
                        world.broken("a change of members that is done is made", wrong);
                    }
                }
                MemberOutcome::Rejected(_) => world.probe("requests about members refused"),
                MemberOutcome::Unknown => world.probe("requests about members of unknown outcome"),
            }
        }
    }
}
