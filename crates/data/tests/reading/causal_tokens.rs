//! Token ids for causal language models: where scoring begins, what begins and ends a text, what is cut.

use bonfire_data::{
    CausalTokenizer, Cell, ChatTemplate, Content, Conversation, Example, Message, Score, Tokenizer, TokenizerFiles,
    corpus,
};

fn asset(model: &str) -> Tokenizer {
    let path = format!("{}/../../models/assets/{model}/tokenizer.json", env!("CARGO_MANIFEST_DIR"));
    Tokenizer::from_file(path.as_ref()).unwrap()
}

fn config(json: &str) -> TokenizerFiles {
    TokenizerFiles { tokenizer_config: Some((json.into(), "tokenizer_config.json".into())), ..Default::default() }
}

const SPECIAL: &str = r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}}"#;
const BOS: u32 = 0;
const EOS: u32 = 2;

fn llama() -> CausalTokenizer {
    CausalTokenizer::new(asset("tiny-llama"), &config(SPECIAL)).unwrap()
}

/// Words that are tokens of their own, without special tokens around them.
const WORDS: &str = r###"{
  "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
  "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
  "model": {"type": "WordLevel", "vocab": {"?": 0, "a": 1, "b": 2, "c": 3, "end": 4, "ab": 5}, "unk_token": "?"}
}"###;

fn words() -> CausalTokenizer {
    let tokenizer = Tokenizer::from_bytes(WORDS.as_bytes(), "words").unwrap();
    CausalTokenizer::new(tokenizer, &config(r#"{"eos_token": "end"}"#)).unwrap()
}

fn pair(prompt: &str, response: &str) -> Example {
    let content = Content::Pair { prompt: prompt.into(), response: response.into() };
    Example { content, label: 0, labels: Vec::new(), value: 0.0, group: None }
}

fn one(tokenizer: &CausalTokenizer, example: Example, longest: usize) -> (Vec<u32>, usize, usize) {
    let tokens = tokenizer.encode(&[example], "train", longest, Score::All).unwrap();
    let scored = &tokens.scored[0];
    assert!(scored.len() == 1 && scored[0].end == tokens.ids[0].len(), "{scored:?}");
    (tokens.ids[0].clone(), scored[0].start, tokens.cut)
}

#[test]
fn the_response_begins_at_its_first_token() {
    let plain = |text: &str| asset("tiny-llama").encode(&[text], 512).unwrap().remove(0);
    for example in &corpus::causal().train[..200] {
        let Content::Pair { prompt, response } = &example.content else { panic!("pairs") };
        let (ids, from, cut) = one(&llama(), example.clone(), 512);
        assert_eq!((ids[0], ids[ids.len() - 1], cut), (BOS, EOS, 0));
        assert_eq!(ids[..from], plain(prompt)[..], "{prompt}");
        assert_eq!(ids[..ids.len() - 1], plain(&format!("{prompt}{response}"))[..]);
    }
}

#[test]
fn a_token_that_reaches_over_counts_to_the_prompt() {
    assert_eq!(one(&words(), pair("a b", " c"), 9), (vec![1, 2, 3, 4], 2, 0));
    // "ab" is one token of prompt and response: only the end is left to score.
    assert_eq!(one(&words(), pair("a", "b"), 9), (vec![5, 4], 1, 0));
    assert_eq!(one(&words(), pair("c a", "b c"), 9), (vec![3, 5, 3, 4], 2, 0));
    // Nothing is before the first token.
    assert_eq!(one(&words(), pair("", "a b"), 9), (vec![1, 2, 4], 1, 0));
    assert_eq!(one(&words(), Example::labelled("a b c", 0, None), 9), (vec![1, 2, 3, 4], 1, 0));
}

#[test]
fn the_encoders_tokenizer_agrees() {
    let tokenizer = CausalTokenizer::new(asset("tiny-roberta"), &config(SPECIAL)).unwrap();
    let (ids, from, _) = one(&tokenizer, pair("the book is", " late"), 64);
    let [prompt, whole] = ["the book is", "the book is late"].map(|text| {
        let mut ids = asset("tiny-roberta").encode(&[text], 64).unwrap().remove(0);
        ids.pop();
        ids
    });
    // Its own end token is not doubled.
    assert_eq!(ids[..ids.len() - 1], whole[..]);
    assert_eq!((from, ids.iter().filter(|id| **id == tokenizer.eos()).count()), (prompt.len(), 1));
}

#[test]
fn begin_and_end_come_once() {
    let (plain, from, _) = one(&llama(), pair("the book", " is late"), 64);
    let (written, from_written, _) = one(&llama(), pair("<s>the book", " is late</s>"), 64);
    assert_eq!((&plain, from), (&written, from_written));
    assert_eq!((plain[0], plain[1] == BOS, plain[plain.len() - 2] == EOS), (BOS, false, false));
}

#[test]
fn the_end_may_be_named_by_number() {
    let by_number = |generation: Option<&str>, model_eos| {
        let generation = generation.map(|json| (json.into(), "generation_config.json".to_owned()));
        let files = TokenizerFiles { generation_config: generation, model_eos, ..config("{}") };
        CausalTokenizer::new(asset("tiny-llama"), &files).map(|tokenizer| tokenizer.eos()).map_err(|e| e.to_string())
    };
    assert_eq!(by_number(Some(r#"{"eos_token_id": [1, 2]}"#), Some(2)), Ok(1));
    assert_eq!(by_number(Some("{}"), Some(2)), Ok(2));
    let error = by_number(None, None).unwrap_err();
    assert!(error.starts_with("tokenizer_config.json: has no `eos_token`, and neither"), "{error}");
    let error = by_number(None, Some(5000)).unwrap_err();
    assert!(error.contains("5000 is not in the vocabulary"), "{error}");
    let unknown = CausalTokenizer::new(asset("tiny-llama"), &config(r#"{"eos_token": "<|end|>"}"#));
    let error = unknown.unwrap_err().to_string();
    assert!(error.starts_with("tokenizer_config.json: `eos_token` is \"<|end|>\", which the vocabulary of"), "{error}");
    let nothing = CausalTokenizer::new(asset("tiny-llama"), &TokenizerFiles::default()).unwrap_err().to_string();
    assert!(nothing.starts_with("tokenizer_config.json: is not there to name an `eos_token`"), "{nothing}");
}

#[test]
fn long_examples_keep_their_begin_and_half_of_the_response() {
    let long = |prompt: usize, response: usize| pair(&"book ".repeat(prompt), &"late ".repeat(response));
    let whole = one(&llama(), long(20, 40), 512);
    let (prompt, all) = (whole.1, whole.0.len());
    // The response is cut first, down to half.
    let (ids, from, cut) = one(&llama(), long(20, 40), all - 3);
    assert_eq!((ids.as_slice(), from, cut), (&whole.0[..all - 3], prompt, 1));
    let (ids, from, _) = one(&llama(), long(20, 40), 20);
    assert_eq!((ids.len(), ids.len() - from, ids[0]), (20, 10, BOS));
    assert_eq!(ids[1..from], whole.0[prompt - 9..prompt]);
    assert_eq!(ids[from..], whole.0[prompt..prompt + 10]);
    // A short response stays whole.
    let (ids, from, _) = one(&llama(), long(100, 1), 12);
    assert_eq!((ids.len(), ids[0], *ids.last().unwrap()), (12, BOS, EOS));
    assert_eq!(ids[from..], one(&llama(), long(100, 1), 512).0[one(&llama(), long(100, 1), 512).1..]);
    for longest in 3..40 {
        let (ids, from, _) = one(&llama(), long(9, 9), longest);
        assert!(ids.len() <= longest && (1..ids.len()).contains(&from), "{longest}: {from} of {}", ids.len());
    }
    // Without a BOS the prompt loses its very beginning.
    assert_eq!(one(&words(), pair("a b c a b", " c"), 4), (vec![1, 2, 3, 4], 2, 1));
    let short = llama().encode(&[long(1, 1)], "train", 2, Score::All).unwrap_err().to_string();
    assert!(short.starts_with("max_length = 2 cannot work"), "{short}");
}

const CHATML: &str = "{% for message in messages %}\n    {% if true %}{{ '<|im_start|>' + message['role'] + '\\n' + \
     message['content'] | trim + '<|im_end|>' + '\\n' }}{% endif %}\n{% endfor %}\n{% if add_generation_prompt %}\n\
     {{ '<|im_start|>assistant\\n' }}{% endif %}";

const LLAMA2: &str = "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}\
     {% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system = false %}{% endif %}\
     {% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
     {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
     {% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}\
     {% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}\
     {{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}\
     {{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";

fn turns(turns: &[(&str, &str)]) -> Conversation {
    turns.iter().map(|(role, content)| Message::new(role, content)).collect::<Vec<_>>().into()
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::parse(source, "t", &[("bos_token", "<s>"), ("eos_token", "</s>")]).unwrap()
}

/// The text with what is scored in brackets.
fn marked(template: &ChatTemplate, talk: &Conversation, score: Score) -> String {
    let rendered = template.scored(talk, score).unwrap();
    let mut text = rendered.text.clone();
    for span in rendered.scored.iter().rev() {
        text.insert(span.end, ']');
        text.insert(span.start, '[');
    }
    text
}

#[test]
fn chat_templates_say_where_turns_begin_and_end() {
    let talk = [("user", "hi"), ("assistant", "ho"), ("user", "more"), ("assistant", "no"), ("user", "why?")];
    let chatml = template(CHATML);
    let expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[ho<|im_end|>\n]<|im_start|>user\nmore<|im_end|>\n\
                    <|im_start|>assistant\n[no<|im_end|>\n]";
    assert_eq!(marked(&chatml, &turns(&talk), Score::All), expected);
    let last = expected.replacen('[', "", 1).replacen(']', "", 1);
    assert_eq!(marked(&chatml, &turns(&talk), Score::Last), last);
    // What a prompt says is not scored.
    let prompted = Conversation { from: 2, ..turns(&talk) };
    assert_eq!(marked(&chatml, &prompted, Score::All), last);
    let llama2 = template(LLAMA2);
    let with_system = [&[("system", "be brief")], &talk[..]].concat();
    let expected = "<s>[INST] <<SYS>>\nbe brief\n<</SYS>>\n\nhi [/INST][ ho </s>]<s>[INST] more [/INST][ no </s>]";
    assert_eq!(marked(&llama2, &turns(&with_system), Score::All), expected);
    let error = llama2.scored(&turns(&[("assistant", "first")]), Score::All).unwrap_err().to_string();
    assert!(error.contains("roles must alternate"), "{error}");
}

#[test]
fn templates_may_mark_what_is_scored() {
    let source = "{% for m in messages %}\n<{{ m.role }}>{% if m.role == 'assistant' %}\n{% generation %}\n{{ m.content }}</>\
                  {%- endgeneration %}\n{% else %}\n{{ m.content }}{% endif %}\n{% endfor %}\n";
    let talk = turns(&[("user", "hi"), ("assistant", "ho"), ("user", "more"), ("assistant", "no")]);
    let marks = template(source);
    assert_eq!(marked(&marks, &talk, Score::All), "<user>hi<assistant>[ho</>]<user>more<assistant>[no</>]");
    assert_eq!(marked(&marks, &talk, Score::Last), "<user>hi<assistant>ho</><user>more<assistant>[no</>]");
    let prompted = Conversation { from: 2, ..talk };
    assert_eq!(marked(&marks, &prompted, Score::All), "<user>hi<assistant>ho</><user>more<assistant>[no</>]");
}

#[test]
fn earlier_turns_that_are_written_otherwise_are_found_too() {
    // As Qwen3 does it: what was thought is there in the last turn alone.
    let thinking = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}\
                    {{ m.content }}<end>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let talk = turns(&[("user", "hi"), ("assistant", "ho"), ("user", "more"), ("assistant", "no")]);
    assert_eq!(
        marked(&template(thinking), &talk, Score::All),
        "<user>hi<end>\n<assistant>[ho<end>\n]<user>more<end>\n<assistant>[<think></think>no<end>\n]"
    );
}

#[test]
fn templates_that_rewrite_earlier_turns_are_refused() {
    let rewriting = template("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}");
    let error = rewriting.scored(&turns(&[("user", "a"), ("assistant", "b")]), Score::All).unwrap_err().to_string();
    assert!(error.contains("where that turn begins cannot be told"), "{error}");
    // More than how a turn begins: the turn is scored with its header.
    let eager = "{% for m in messages %}({{ m.role }}){{ m.content }}{% endfor %}{% if add_generation_prompt %}(think){% endif %}";
    let talk = turns(&[("user", "a"), ("assistant", "b")]);
    assert_eq!(marked(&template(eager), &talk, Score::All), "(user)a[(assistant)b]");
    let error = ChatTemplate::parse("{% if %}", "t", &[]).unwrap_err().to_string();
    assert!(error.starts_with("t: the chat template cannot be read in its line 1"), "{error}");
}

#[test]
fn every_field_reaches_the_template() {
    let source = "{% for m in messages %}{{ m.role }}:{{ m.content }}\
                  {% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{{ m.name or '' }};{% endfor %}\
                  {{ tools | tojson if tools else 'no tools' }} {{ documents is none }} {{ mood }} {{ unk_token }}";
    let cell = |json: &str| serde_json::from_str::<Cell>(json).unwrap();
    let turn = |json: &str| match cell(json) {
        Cell::Record(fields) => Message::of(fields).unwrap(),
        _ => panic!("an object"),
    };
    let talk = vec![
        turn(
            r#"{"role": "assistant", "content": null, "tool_calls": [{"type": "function", "id": "c", "a": {"z": 1, "b": 2.5}}]}"#,
        ),
        turn(r#"{"role": "tool", "content": "found", "name": "look"}"#),
    ];
    let fields = vec![("mood".to_owned(), Cell::from("calm"))];
    let talk = Conversation { turns: talk, fields, from: 0 };
    let template = ChatTemplate::parse(source, "t", &[("unk_token", "<unk>")]).unwrap();
    assert_eq!(
        template.render(&talk, false).unwrap(),
        "assistant:[{\"type\": \"function\", \"id\": \"c\", \"a\": {\"z\": 1, \"b\": 2.5}}];tool:foundlook;\
         no tools True calm <unk>"
    );
}

#[test]
fn templates_have_what_transformers_gives_them() {
    let source =
        "{{ strftime_now('%d %b %Y') }} {{ {'a': [1, '<b>']} | tojson }} {{ ' x '.strip() }}{{ 'a,b'.split(',')[1] }}";
    let text = template(source).render(&turns(&[]), false).unwrap();
    assert_eq!(text, "26 Jul 2024 {\"a\": [1, \"<b>\"]} xb");
    // What Python's Jinja2 gives.
    for (source, expected) in [
        ("{{ '%s-%03d|%-4s|%.2f%%' % ('a', 7, 'b', 1.5) }}", "a-007|b   |1.50%"),
        ("{{ 'x%sy' % bos_token }}", "x<s>y"),
        ("{{ 'a-b-c'.partition('-')[2] }}{{ 'a-b-c'.rpartition('-')[0] }}", "b-ca-b"),
        ("{{ 'abc'.index('c') }}{{ 'xabc'.removeprefix('x') }}{{ 'abc'.removesuffix('c') }}", "2abcab"),
        ("{{ '{} {b}{{'.format('x', b='y') }}{{ '7'.zfill(3) }}{{ 'ab'.center(5) }}|", "x y{007  ab |"),
        (
            "{{ {'b': 'ä', 'a': [1, 2]} | tojson(sort_keys=true, ensure_ascii=true) }}",
            "{\"a\": [1, 2], \"b\": \"\\u00e4\"}",
        ),
        ("{{ {'b': [1, 2]} | tojson(separators=(',', ':')) }}", "{\"b\":[1,2]}"),
        ("{{ none is iterable }}{{ [] is iterable }}", "FalseTrue"),
        ("{{ 'one two  three' | wordcount }}{{ 'a b/ä' | urlencode }}", "3a%20b/%C3%A4"),
        ("a\r\nb\r\n", "a\nb"),
    ] {
        assert_eq!(template(source).render(&turns(&[]), false).unwrap(), expected, "{source}");
    }
}

#[test]
fn conversations_are_scored_from_the_last_turn() {
    let json = |template: &str| {
        serde_json::json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": serde_json::from_str::<serde_json::Value>(template).unwrap()})
            .to_string()
    };
    let text = serde_json::json!(LLAMA2).to_string();
    let named =
        serde_json::json!([{"name": "tools", "template": "x"}, {"name": "default", "template": LLAMA2}]).to_string();
    let talk = Content::Chat(turns(&[("user", "the book"), ("assistant", "is late")]));
    let example = Example { content: talk, label: 0, labels: Vec::new(), value: 0.0, group: None };
    let expected = asset("tiny-llama").encode(&["[INST] the book [/INST] is late </s>"], 64).unwrap().remove(0);
    for template in [text, named] {
        let tokenizer = CausalTokenizer::new(asset("tiny-llama"), &config(&json(&template))).unwrap();
        let (ids, from, _) = one(&tokenizer, example.clone(), 64);
        assert_eq!(ids, expected);
        assert_eq!(from, asset("tiny-llama").encode(&["[INST] the book [/INST]"], 64).unwrap()[0].len());
    }
    let file = ("{{ messages[1].content }}{{ eos_token }}".into(), "chat_template.jinja".to_owned());
    let files = TokenizerFiles { chat_template: Some(file), ..config(&json("\"x\"")) };
    let tokenizer = CausalTokenizer::new(asset("tiny-llama"), &files).unwrap();
    let error = tokenizer.encode(std::slice::from_ref(&example), "test", 64, Score::All).unwrap_err().to_string();
    assert!(error.starts_with("test row 0 (counted from 0): chat_template.jinja: "), "{error}");
    let error = llama().encode(&[example], "train", 64, Score::All).unwrap_err().to_string();
    assert!(error.contains("no chat_template") && error.contains("`prompt` and `response`"), "{error}");
}

#[test]
fn broken_files_are_named() {
    let broken = CausalTokenizer::new(asset("tiny-llama"), &config("[]")).unwrap_err().to_string();
    assert!(broken.starts_with("tokenizer_config.json: not a JSON object"), "{broken}");
    let template =
        r#"{"eos_token": "</s>", "chat_template": [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}]}"#;
    let error = CausalTokenizer::new(asset("tiny-llama"), &config(template)).unwrap_err().to_string();
    assert!(error.contains("neither a template nor a list"), "{error}");
}
