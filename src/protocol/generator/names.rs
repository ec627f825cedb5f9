//! Kafka's names in Rust's cases.

/// `ReplicaId` -> `replica_id`. KRaft counts as one word.
pub fn snake(name: &str) -> String {
    let mut snake = String::new();
    for character in name.replace("KRaft", "Kraft").chars() {
        if character.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

/// A field's name; Rust's own words are escaped.
pub fn field(name: &str) -> String {
    let snake = snake(name);
    match snake.as_str() {
        "type" | "match" | "ref" | "move" | "use" | "self" => format!("r#{snake}"),
        _ => snake,
    }
}
