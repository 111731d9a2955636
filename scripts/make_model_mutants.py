import subprocess,os,sys
R='./'; B='crates/forebay/src/'
OUT=R+'crates/forebay-models/mutants/'
M=[]
def m(name,path,*subs): M.append((name,path,subs))
m('staging-nobody-told-of-a-slot-that-came-back','staging/mod.rs',('''        drop(state);
        self.staging.changed.notify_all();
''','''        drop(state);
'''))
m('staging-nobody-told-of-the-closing','staging/mod.rs',('''        self.state.lock().closes_at = Some(at);
        self.changed.notify_all();
''','''        self.state.lock().closes_at = Some(at);
'''))
m('staging-nudged-without-the-lock','staging/mod.rs',('''        // Under the lock, so that nobody is between asking and waiting.
        let _state = self.state.lock();
''',''))
m('staging-slot-still-counted','staging/mod.rs',('''        *state.holding(self.class) -= 1;
''',''))
m('staging-who-gives-up-stays-in-line','staging/mod.rs',('''        state.line(class).waiters.retain(|&waiter| waiter != me);
''','''        if outcome.is_ok() {
            state.line(class).waiters.retain(|&waiter| waiter != me);
        }
'''))
m('staging-the-next-in-line-not-woken','staging/mod.rs',('''        // Whoever is next may be able to go now.
        self.changed.notify_all();
''',''))
m('queue-closed-without-waking-helpers','queue.rs',('''        self.changed.notify_all();
        self.behind.notify_all();
''','''        self.changed.notify_all();
'''))
m('queue-helper-not-told-of-a-job','queue.rs',('''        } else {
            self.behind.notify_one();
        }
''','''        }
'''))
m('queue-helper-leaves-a-lone-job','queue.rs',('''            if for_long
                && !state.served
''','''            if for_long
                && state.served
'''))
m('queue-server-counted-on-though-it-was-called','queue.rs',('if std::mem::take(&mut state.served) {','if state.served {'))
m('watch-nobody-said-to-be-overdue','mover/watch.rs',('''        content.overdue = true;
''',''))
m('watch-idle-keeper-not-woken','mover/watch.rs',('''        if idle {
            self.changed.notify_all();
        }
''','''        let _ = idle;
'''))
m('watch-put-back-though-overdue','mover/watch.rs',('''        if content.overdue {
            return Some(thing);
        }
''',''))
m('batch-nobody-told-of-an-end','mover/batch.rs',('''        drop(state);
        self.changed.notify_all();
        then.into_iter()''','''        drop(state);
        then.into_iter()'''))
m('batch-callback-noted-after-the-lock','mover/batch.rs',('''        let mut state = self.state.lock();
        if state.is_done() {
            drop(state);
            call(Box::new(then));
        } else {
            state.then.push(Box::new(then));
        }
''','''        if self.is_done() {
            call(Box::new(then));
        } else {
            self.state.lock().then.push(Box::new(then));
        }
'''))
m('job-answered-before-its-memory-is-let-go-of','mover/job.rs',('''        let Self { open, lent, .. } = self;
        drop(lent);
        open.answer(Err(reason));
''','''        let Self { open, lent, .. } = self;
        open.answer(Err(reason));
        drop(lent);
'''))
m('job-counted-after-its-answer','mover/job.rs',('''            if let Some(metered) = self.metered.take() {
                metered.end(&verdict);
            }
''',''),('''            answer(plan, verdict);
''','''            answer(plan, verdict.clone());
            if let Some(metered) = self.metered.take() {
                metered.end(&verdict);
            }
'''))
m('turns-asked-for-too-late','tier/remote/turns.rs',('''            // Asked for before it is looked whether there is a need, so that no change in between is missed.
            let changed = self.changed.notified();
''',''),('''            changed.await;
''','''            self.changed.notified().await;
'''))
m('turns-nobody-told','tier/remote/turns.rs',('''        self.0.changed.notify_waiters();
''',''))
m('upload-last-part-forgotten-by-a-shutdown','tier/remote/client.rs',('''    pub(crate) fn to_come(&self) -> Task {
        Task::begin(&self.tasks)
''','''    pub(crate) fn to_come(&self) -> Task {
        Task::begin(&Arc::default())
'''))
m('upload-last-part-does-not-wait','tier/remote/engine.rs',('''        if state.under_way > 0 {
            return;
        }
''',''))
m('copies-followers-of-a-copy-not-told','copies.rs',('''            self.following.ended(to.ticket, end.status == StoreStatus::Stored);
''',''))
m('copies-asked-whether-under-way-before-the-lock','copies.rs',('''        let mut waiting = self.waiting.lock();
        if self.control.is_being_copied(&key, to) {
''','''        let is_being_copied = self.control.is_being_copied(&key, to);
        let mut waiting = self.waiting.lock();
        if is_being_copied {
'''))
m('copies-not-given-up-at-the-closing','cache.rs',('''        self.copies.give_up();
''',''))
m('following-not-given-up-at-the-closing','cache.rs',('''        self.following.give_up();
''',''))
m('following-not-told-of-a-write-back','cache.rs',('''                    following.ended(write_back.ticket, is_kept);
''','''                    let _ = &following;
'''))
m('following-asked-whether-under-way-before-the-lock','following.rs',('''        let mut waiting = self.waiting.lock();
        let crowded''','''        let is_writing = control.is_writing(ticket);
        let mut waiting = self.waiting.lock();
        let crowded'''),('if control.is_writing(ticket) && !crowded','if is_writing && !crowded'))
m('mover-jobs-behind-a-thread-that-hangs-not-refused','mover/mod.rs',('''        shared.stores.sweep(|_| true).into_iter().for_each(|job| job.refuse(Reason::Closed));
        shared.loads''','''        shared.loads'''))
m('events-reader-not-woken','events.rs',('''            queue.changed.notify_one();
''',''))
m('events-lost-not-counted','events.rs',('''                waiting.lost += waiting.events.len() as u64;
''',''))
m('events-nobody-told-of-the-closing','events.rs',('''        self.news.lock().closed = true;
        self.changed.notify_all();
''','''        self.news.lock().closed = true;
'''))
m('events-end-told-before-the-subscription-is-gone','events.rs',('''            let _ended = ended;
            let mut hear = hear;
            let events = self;
''','''            let events = self;
            let mut hear = hear;
            let _ended = ended;
'''))
m('crew-nobody-told-that-a-thread-has-ended','crew.rs',('''        *self.working.count.lock() -= 1;
        self.working.changed.notify_all();
''','''        *self.working.count.lock() -= 1;
'''))
m('client-nobody-told-that-a-request-has-ended','tier/remote/client.rs',('''        *self.0.count.lock() -= 1;
        self.0.changed.notify_all();
''','''        *self.0.count.lock() -= 1;
'''))
if __name__=='__main__':
    os.makedirs(OUT,exist_ok=True)
    for name,path,subs in M:
        p=R+B+path; s=open(p).read(); t=s
        for a,b in subs:
            assert t.count(a)==1,(name,t.count(a),a)
            t=t.replace(a,b)
        open(p,'w').write(t)
        d=subprocess.run(['git','diff','--no-color','-U2','--',B+path],cwd=R,capture_output=True,text=True).stdout
        open(p,'w').write(s)
        open(OUT+name+'.patch','w').write(d)
    print(len(M))
