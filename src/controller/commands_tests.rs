//! Tests of the judgement of commands: a table of requests and Kafka's error codes.

use super::*;

fn image() -> ClusterImage {
    let mut image = ClusterImage::default();
    image.apply(&MetadataRecord::ClusterFormatted { cluster_id: "c".into() });
    image.apply(&MetadataRecord::ShardsChanged { shards: 2 });
    for record in register(&image, BrokerId(1), "h", 9092).0 {
        image.apply(&record);
    }
    image
}

fn run(image: &mut ClusterImage, command: &Command) -> Outcome {
    let mut n = 0_u64;
    let mut random = || {
        n += 0x1234_5678_9abc;
        n ^ image.topic_count() as u64
    };
    let mut context = Context { num_partitions: 3, replication_factor: 1, delete_topics: true, random: &mut random };
    let (records, outcome) = evaluate(&image.clone(), command, &mut context);
    records.iter().for_each(|r| image.apply(r));
    outcome
}

fn new(name: &str) -> NewTopic {
    NewTopic { name: name.into(), partitions: 1, replication_factor: 1, ..NewTopic::default() }
}

fn create(image: &mut ClusterImage, topics: Vec<NewTopic>) -> Vec<Result<(i32, i16), ErrorCode>> {
    codes(run(image, &Command::CreateTopics { topics, validate_only: false }))
}

fn codes(outcome: Outcome) -> Vec<Result<(i32, i16), ErrorCode>> {
    match outcome {
        Outcome::Topics(topics) => topics.into_iter().map(|t| t.result.map_err(|e| e.code)).collect(),
        other => panic!("topics, not {other:?}"),
    }
}

type Judged = Result<(i32, i16), ErrorCode>;

#[test]
fn topics_are_made_as_kafka_makes_them() {
    let mut image = image();
    let topic = |f: &dyn Fn(&mut NewTopic)| {
        let mut t = new("t");
        f(&mut t);
        t
    };
    let assigned = |a: Vec<(i32, Vec<i32>)>| {
        topic(&|t| {
            (t.partitions, t.replication_factor) = (-1, -1);
            t.assignments.clone_from(&a);
        })
    };
    let table: Vec<(NewTopic, Judged)> = vec![
        (topic(&|t| t.name = "a b".into()), Err(ErrorCode::InvalidTopicException)),
        (topic(&|t| t.name = "..".into()), Err(ErrorCode::InvalidTopicException)),
        (topic(&|t| t.partitions = 0), Err(ErrorCode::InvalidPartitions)),
        (topic(&|t| t.partitions = -2), Err(ErrorCode::InvalidPartitions)),
        (topic(&|t| t.partitions = 200_000), Err(ErrorCode::PolicyViolation)),
        (topic(&|t| t.replication_factor = 2), Err(ErrorCode::InvalidReplicationFactor)),
        (topic(&|t| t.replication_factor = 0), Err(ErrorCode::InvalidReplicationFactor)),
        (topic(&|t| drop(t.configs.insert("no.such".into(), "1".into()))), Err(ErrorCode::InvalidConfig)),
        (topic(&|t| t.assignments = vec![(0, vec![1])]), Err(ErrorCode::InvalidRequest)),
        (assigned(vec![(1, vec![1])]), Err(ErrorCode::InvalidReplicaAssignment)),
        (assigned(vec![(0, vec![7])]), Err(ErrorCode::InvalidReplicaAssignment)),
        (assigned(vec![(0, vec![1, 1])]), Err(ErrorCode::InvalidReplicaAssignment)),
        (assigned(vec![(0, vec![])]), Err(ErrorCode::InvalidReplicaAssignment)),
        (topic(&|t| (t.partitions, t.replication_factor) = (-1, -1)), Ok((3, 1))),
    ];
    for (topic, expected) in table {
        assert_eq!(create(&mut image, vec![topic.clone()]), [expected], "{topic:?}");
    }
    assert_eq!(create(&mut image, vec![new("t")]), [Err(ErrorCode::TopicAlreadyExists)]);
    assert_eq!(create(&mut image, vec![new("x.y"), new("x_y")]), [Ok((1, 1)), Err(ErrorCode::InvalidTopicException)]);
    let twice = vec![new("d"), new("d"), new("e")];
    assert_eq!(create(&mut image, twice), [Err(ErrorCode::InvalidRequest), Err(ErrorCode::InvalidRequest), Ok((1, 1))]);
    assert!(image.topic("t").expect("made").partitions.iter().all(|p| p.leader == BrokerId(1)));
}

#[test]
fn validating_changes_nothing() {
    let mut image = image();
    let before = image.clone();
    let outcome = run(&mut image, &Command::CreateTopics { topics: vec![new("t")], validate_only: true });
    assert_eq!(codes(outcome), [Ok((1, 1))]);
    assert_eq!(image, before);
}

#[test]
fn topics_go_by_name_and_by_id() {
    let mut image = image();
    create(&mut image, vec![new("a"), new("b")]);
    let id = image.topic("b").expect("made").id;
    let topics = vec![
        TopicRef::Name("a".into()),
        TopicRef::Id(id),
        TopicRef::Name("z".into()),
        TopicRef::Id(TopicId::default()),
    ];
    let outcome = run(&mut image, &Command::DeleteTopics { topics });
    let expected =
        [Ok((-1, -1)), Ok((-1, -1)), Err(ErrorCode::UnknownTopicOrPartition), Err(ErrorCode::UnknownTopicId)];
    assert_eq!(codes(outcome), expected);
    assert_eq!(image.topic_count(), 0);
}

#[test]
fn topics_only_grow() {
    let mut image = image();
    create(&mut image, vec![new("a")]);
    let mut grow = |name: &str, count, assignments: Option<Vec<Vec<i32>>>| {
        let topics = vec![MorePartitions { name: name.into(), count, assignments }];
        codes(run(&mut image, &Command::CreatePartitions { topics, validate_only: false }))
    };
    assert_eq!(grow("a", 3, None), [Ok((3, -1))]);
    assert_eq!(grow("a", 3, None), [Err(ErrorCode::InvalidPartitions)]);
    assert_eq!(grow("a", 2, None), [Err(ErrorCode::InvalidPartitions)]);
    assert_eq!(grow("z", 2, None), [Err(ErrorCode::UnknownTopicOrPartition)]);
    assert_eq!(grow("a", 5, Some(vec![vec![1]])), [Err(ErrorCode::InvalidReplicaAssignment)]);
    assert_eq!(grow("a", 4, Some(vec![vec![1]])), [Ok((4, -1))]);
    let topic = image.topic("a").expect("made");
    let shards: Vec<u16> = topic.partitions.iter().map(|p| p.shard).collect();
    assert!(shards.windows(2).all(|w| w[0] != w[1]), "two shards take turns: {shards:?}");
}

#[test]
fn settings_replace_or_add() {
    let mut image = image();
    create(&mut image, vec![new("a")]);
    let mut alter = |values: &[(&str, Option<&str>)], replace| {
        let values = values.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned))).collect();
        let change = ConfigChange { resource: ResourceRef::Topic("a".into()), values, replace };
        run(&mut image, &Command::AlterConfigs { changes: vec![change], validate_only: false });
        image.topic("a").expect("made").configs.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>()
    };
    assert_eq!(alter(&[("x", Some("1")), ("y", Some("2"))], false), ["x=1", "y=2"]);
    assert_eq!(alter(&[("x", None)], false), ["y=2"]);
    assert_eq!(alter(&[("z", Some("3"))], true), ["z=3"]);
}

#[test]
fn producer_ids_come_in_blocks() {
    let mut image = image();
    assert_eq!(run(&mut image, &Command::AllocateProducerIds), Outcome::ProducerIds(0));
    assert_eq!(run(&mut image, &Command::AllocateProducerIds), Outcome::ProducerIds(PRODUCER_ID_BLOCK));
}
