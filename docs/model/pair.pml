/*
 * The pair protocol of colod: two nodes, one arbiter, any faults up to a number.
 *
 * README.md beside this file says which step is which function of the Go code, what is left out, and what was found.
 * check.sh runs it. Macros that select what is checked:
 *
 *   F=n           number of faults (default 2); what counts as one is in the process faults
 *   PROGRESS      labels for the search of cycles without progress (then: a fault is always followed by its repair)
 *   LOST          with PROGRESS: a host or process that is lost stays lost
 *   ONLY_SWAPS    the only faults are swaps without an answer and wrong suspicions
 *   KEEP          with F=1: a guest that the record calls protected is never started anew
 *
 * and the deliberate mistakes, each of which has to be found:
 *
 *   BAD_PROMOTE   a standby takes over when it lost its speaker, whatever the record says
 *   BAD_ARM       the record names the standby before the arming checkpoint
 *   BAD_RELEASE   the speaker releases what nobody agreed on while it waits for the record
 *   BAD_CLAIM     a record that is read and names this node alone counts as won, although a swap may still be on its way
 *   BAD_ADOPT     the same for a node that starts
 *   BAD_STALE     a secondary claims the record although what it knows of it does not name it
 *   BAD_SWITCH    the VM of a planned exchange of roles goes on before the record was won back
 *   BAD_TELL      a checkpoint that the secondary took is not told to its data path before it speaks
 */

#ifndef F
#define F 2
#endif

#define NONE 2
#define other(x) (1 - (x))

/* States of a node's machine; OFF: colod does not run. */
#define OFF      0
#define IDLE     1
#define STANDBY  2
#define SPREP    3  /* Syncing, speaker: preparing, linking, copying */
#define SARM     4  /*   first checkpoint */
#define SREC     5  /*   the record is being written */
#define SWAIT    6  /* Syncing, secondary: waits for state and record */
#define SASK     7  /*   lost its speaker, reads the record */
#define PROTP    8  /* Protected and Checkpointing, speaker */
#define PROTS    9  /* Protected and Checkpointing, secondary */
#define CLAIM   10
#define PROMO   11
#define SOLO    12
#define FENCED  13
#define SWITCH  14  /* Switching: the VM stands still, the other node is to take over */

/* A node's data path. */
#define MUTE   0
#define ALONE  1  /* everything is released */
#define PRIM0  2  /* has a peer; everything is still released, by the record's authority */
#define PRIM   3  /* released is what is agreed on or covered */
#define SECO   4  /* described to the peer, never released */

/* A node's VM. */
#define NOVM    0
#define FREE    1  /* runs alone */
#define COLOP   2  /* primary in COLO */
#define COLOS   3  /* secondary in COLO */
#define INCOM   4  /* waits for the state */

/* Messages between the machines. */
#define PREPARE  1
#define PREPARED 2
#define REFUSED  3
#define ARMED    4
#define ABORT    5
#define VMDIED   6
#define HANDOVER 7

/* The arbiter's record, and the swaps under way. A swap is decided by generation: each has one content only. */
byte recGen = 1, recSpk = 0, recStb = NONE;
byte sw[2];                  /* 0 none, 1 under way, 2 won, 3 lost, 4 outcome unknown */
byte swGen[2], swStb[2];     /* generation that is replaced, standby that is written */
bit  late[2];                /* a swap that its node has given up, and that may still be carried out */
byte lateGen[2], lateStb[2];

/* The nodes. */
byte st[2], w[2], ses[2];    /* state, step of a swap (below), session */
byte base[2];                /* generation that the wanted swap replaces */
byte kGen[2], kSpk[2], kStb[2]; /* the record as last seen */
bit  known[2];
byte ck[2];                  /* speaker's checkpoint: 0 none, 1 holding, 2 triggered, 3 covering */
bit  up[2];                  /* the other node answers */
bit  rs[2];                  /* the other node's colod is a new process, and it has not been noticed */
bit  freeing[2], muting[2], spoken[2];
bit  planned[2];             /* speaker: an operator wants the roles exchanged */
bit  paused[2];              /* the VM was stopped for that */
byte sessions;

#define TOSEND 0  /* w: the swap is to be sent */
#define SENT   1
#define UNSURE 2  /* its outcome is unknown: the record has to be read */
#define LOOKED 3  /* it was read */

/* Data paths, VMs and the stream between them. */
byte dp[2], vm[2];
bit  hold[2];                /* speaker: between the beginning and the end of a checkpoint */
bit  inck[2];                /* secondary: the same */
byte cover[2];               /* what a checkpoint covers is to be released; 1 the VM that took it is there, 2 no more */
bit  net, relay;             /* the links of the present session */
byte tok;                    /* a description has reached the speaker; 1 of the VM that is there, 2 of one that is gone */
byte qk;                     /* QEMU's checkpoint: 0 none, 2 triggered, guests stopped, 3 received as a whole, 4 loaded */
byte evP;                    /* the primary's RESUME after a checkpoint has not been seen by its colod; as cover */
bit  sload;                  /* the secondary has loaded a checkpoint, and its data path does not know */
byte pri;                    /* node of the primary in COLO */

/* What nobody can see: is all that clients were given part of what this VM is? cfit is the state in transfer. */
bit  fit[2], cfit;

byte faults;                 /* so far */
bit  cut[2];                 /* nothing reaches this node from the other */

chan ch[2] = [6] of { byte, byte, byte }; /* kind, session, generation of the record that the sender knew */

#define OK        (!cut[0] && !cut[1])
/* The guest of x runs: a checkpoint stops the secondary until it has loaded it, and the primary until then. */
#define RUNS(x)   (!paused[x] && STIRS(x))
#define STIRS(x)  (vm[x] == FREE || (vm[x] == COLOP && qk < 2) || (vm[x] == COLOS && qk != 2 && qk != 3))
#define FAULT     (faults < F)
#ifdef KEEP
bit kept;                    /* at the fault the record named a standby that had a whole copy */
#define SPEND     faults++; kept = (recStb != NONE && vm[recStb] == COLOS && fit[recStb] && vm[recSpk] == COLOP && fit[recSpk])
#else
#define SPEND     faults++
#endif

inline flush(c) { do :: nempty(c) -> c?_,_,_ :: empty(c) -> break od }

inline send(x, kind, s) {
	if
	:: up[x] && up[other(x)] -> assert(nfull(ch[other(x)])); ch[other(x)]!kind,s,kGen[x]
	:: !(up[x] && up[other(x)])
	fi
}

/* Output of node x that only its own VM stands for. The record must name it alone at this very moment. */
inline releaseAlone(x) {
	assert(recSpk == x && recStb == NONE);
	assert(fit[x]);
	fit[other(x)] = 0; cfit = 0
}

/*
 * Output that two VMs stand for, x's and the one that described it: a part of one history if one of them is. by: 2 = the
 * latter is gone. If x's is gone too, the history has ended, unless there is somebody who could continue it without this.
 */
inline releaseBoth(x, by) {
	if
	:: by == 1 -> assert(fit[x] || fit[other(x)] || (vm[x] == NOVM && !cfit))
	:: by == 2 && fit[x] -> fit[other(x)] = 0; cfit = 0
	:: by == 2 && !fit[x] -> assert(!fit[other(x)] && !cfit)
	:: by == 3 /* the last words of a guest that was started anew since */
	fi
}

inline endVM(x) {
	if
	:: vm[x] == COLOS -> relay = 0; sload = 0; qk = 0
	:: vm[x] == COLOP -> relay = 0; if :: qk < 3 -> qk = 0 :: else fi
	:: else
	fi;
	if :: dp[other(x)] == PRIM && tok == 1 -> tok = 2 :: else fi;
	if :: cover[other(x)] == 1 -> cover[other(x)] = 2 :: else fi;
	if :: pri == other(x) && evP == 1 -> evP = 2 :: else fi;
	vm[x] = NOVM; fit[x] = 0; freeing[x] = 0; paused[x] = 0
}

inline load(x) { fit[x] = cfit; cfit = 0; qk = 4; sload = 1 }

inline look(x) { kGen[x] = recGen; kSpk[x] = recSpk; kStb[x] = recStb; known[x] = 1 }

/* The session ends: its relay is cut. */
inline cutSession(x) { relay = 0; ck[x] = 0; if :: pri == x -> evP = 0 :: else fi }

/* The swap is decided on now, whenever it is sent. */
inline want(x) { w[x] = TOSEND; base[x] = kGen[x] }
inline swap(x, standby) { sw[x] = 1; swGen[x] = base[x]; base[x] = 0; swStb[x] = standby; w[x] = SENT }

#define SYNCING(x)  (st[x] == SPREP || st[x] == SARM || st[x] == SREC)
#define SPEAKER(x)  (SYNCING(x) || st[x] == PROTP || st[x] == SWITCH)
#define TAKER(x)    (st[x] == SWAIT || st[x] == SASK || st[x] == PROTS)
#define MINE(x)     (kSpk[x] == x)
/* The other side of x's session no longer follows. */
#define BROKEN(x)   (!net || !relay || vm[other(x)] != COLOS)
/* A claim has been won, by the record as it was read. */
#ifdef BAD_CLAIM
#define WON(x)      (MINE(x) && kStb[x] == NONE)
#else
#define WON(x)      (MINE(x) && kStb[x] == NONE && kGen[x] > swGen[x])
#endif
/* The record names node x, or names it standby. */
#ifdef BAD_STALE
#define MAYCLAIM(x) true
#else
#define MAYCLAIM(x) (MINE(x) || kStb[x] == x)
#endif
/* A wait of half a minute ends, which for safety may be at any time; else when nothing that is quicker can happen. */
#ifdef KEEP
#define LONG(x)     (len(ch[0]) == 0 && len(ch[1]) == 0 && st[other(x)] != CLAIM && st[other(x)] != PROMO && st[other(x)] != SASK && \
                     !(TAKER(other(x)) && (!up[other(x)] || rs[other(x)])))
#else
#define LONG(x)     true
#endif

/* The record names node x and a standby: x goes on if it has the guest, or if nobody has it. */
#define TAKESBACK(x) (vm[x] != NOVM || (up[x] && vm[other(x)] == NOVM && (st[other(x)] == STANDBY || st[other(x)] == IDLE)) || LONG(x))

/* Where a step of the machine leads; resolved at its end, in this order. */
#define LOSTPEER   1  /* by the state */
#define FAILSYNC   2
#define AGAIN      3  /* a claim was lost, or its outcome was read */
#define TOCLAIM    4
#define TOPROMO    5
#define TOFENCED   6
#define TOSTANDBY  7
#define TOIDLE     8
#define TAKEBACK   9

proctype node(byte i)
{
	byte j = 1 - i;
	byte kind, s, gen, say, go;
	do
	:: atomic {
		if
		/* The connection between the machines. */
		:: st[i] != OFF && up[i] && (st[j] == OFF || cut[i] || !up[j] || rs[i]) ->
			if :: rs[i] && st[j] != OFF && !cut[i] && up[j] :: else -> up[i] = 0; flush(ch[i]) fi;
			rs[i] = 0; go = LOSTPEER
		:: st[i] != OFF && up[i] && up[j] && FAULT -> SPEND; up[i] = 0; flush(ch[i]); go = LOSTPEER /* wrong suspicion */
		:: st[i] != OFF && up[i] && !rs[i] && !cut[i] && nempty(ch[i]) ->
			ch[i]?kind,s,gen;
			if
			:: kind == PREPARE && st[i] == STANDBY ->
				if
				:: gen >= kGen[i] && vm[i] == NOVM && !muting[i] -> st[i] = SWAIT; ses[i] = s; vm[i] = INCOM; inck[i] = 0; say = PREPARED
				:: else -> say = REFUSED
				fi
			:: kind == PREPARE && TAKER(i) && s != ses[i] ->
				say = REFUSED;
				if
				:: st[i] == PROTS -> go = TOFENCED
				:: st[i] == SWAIT -> st[i] = SASK; w[i] = 0
				:: else
				fi
			:: kind == PREPARED && st[i] == SPREP && s == ses[i] -> w[i] = 1
			:: (kind == REFUSED || kind == VMDIED) && SYNCING(i) && s == ses[i] -> go = FAILSYNC
			:: kind == ARMED && (st[i] == SWAIT || st[i] == SASK) && s == ses[i] ->
				if :: gen >= kGen[i] -> kGen[i] = gen; kSpk[i] = j; kStb[i] = i :: else fi; /* an older record is not learnt */
				st[i] = PROTS; w[i] = 0
			:: kind == ABORT && TAKER(i) && s == ses[i] -> go = TOFENCED
			:: kind == VMDIED && s == ses[i] && (st[i] == PROTP || st[i] == PROTS) -> go = TOCLAIM
			:: kind == VMDIED && s == ses[i] && st[i] == SWITCH -> go = TAKEBACK
			:: kind == HANDOVER && s == ses[i] && st[i] == PROTS -> go = TOCLAIM
			:: kind == VMDIED && s == ses[i] && st[i] == SWAIT -> st[i] = SASK; w[i] = 0
			:: else -> s = 0
			fi
		/* Status: the other node knows a newer record. */
		:: st[i] != OFF && st[i] != IDLE && up[i] && up[j] && !cut[i] && kGen[j] > kGen[i] ->
			look(i);
			if
			:: st[i] == PROTS && (kSpk[i] != j || kStb[i] != i) -> go = TOFENCED
			:: st[i] == PROTP && MINE(i) && kStb[i] != j -> go = TOCLAIM
			:: st[i] == SWITCH && MINE(i) && kStb[i] != j -> go = TOCLAIM
			:: (st[i] == PROTP || st[i] == SOLO || st[i] == PROMO) && !MINE(i) -> go = TOFENCED
			:: else
			fi

		/* Idle: record and VM decide; w: the VM is being ended first. */
		:: st[i] == IDLE && w[i] == 1 -> w[i] = 0; endVM(i)
		:: st[i] == IDLE && (!known[i] || kGen[i] != recGen) && sw[i] == 0 -> look(i)
		:: st[i] == IDLE && w[i] == 0 && known[i] && sw[i] == 0 && !muting[i] && !(MINE(i) && kStb[i] != NONE && !TAKESBACK(i)) ->
			if
#ifdef BAD_ADOPT
			:: MINE(i) && kStb[i] == NONE -> go = TOPROMO; freeing[i] = (vm[i] != NOVM)
#else
			:: MINE(i) && kStb[i] == NONE -> go = TOCLAIM
#endif
			:: MINE(i) && kStb[i] != NONE -> go = TOCLAIM
			:: !MINE(i) && vm[i] == NOVM -> go = TOSTANDBY
			:: !MINE(i) && vm[i] != NOVM && kStb[i] == i && !(up[i] && vm[j] != NOVM) -> go = TOCLAIM
			:: !MINE(i) && vm[i] != NOVM && (kStb[i] != i || (up[i] && vm[j] != NOVM)) -> go = TOFENCED
			fi

		/* Standby. */
		:: st[i] == STANDBY && (kGen[i] != recGen || MINE(i)) -> look(i); if :: MINE(i) -> go = TOIDLE :: else fi

		/* Solo: protect again. */
		:: st[i] == SOLO && vm[i] == FREE && up[i] && up[j] && OK && st[j] == STANDBY && vm[j] == NOVM && !muting[j] && !rs[i] ->
			sessions++; ses[i] = sessions; st[i] = SPREP; w[i] = 0; ck[i] = 0; say = PREPARE
		:: st[i] == SOLO && vm[i] == NOVM -> go = TOPROMO

		/* Syncing, speaker. */
		:: st[i] == SPREP && w[i] == 1 && OK && st[j] == SWAIT && ses[j] == ses[i] && vm[j] == INCOM && vm[i] == FREE ->
			/* data paths connected, guest copied */
			net = 1; relay = 1; tok = 0; qk = 0; evP = 0; sload = 0; pri = i;
			dp[i] = PRIM0; hold[i] = 0; cover[i] = 0; dp[j] = SECO; inck[j] = 0;
			vm[i] = COLOP; vm[j] = COLOS; fit[j] = fit[i];
#ifdef BAD_ARM
			st[i] = SREC; want(i)
#else
			st[i] = SARM; ck[i] = 1; hold[i] = 1; w[i] = 0
#endif
		:: (st[i] == SPREP || st[i] == SARM) && vm[i] == NOVM -> say = ABORT; go = TOPROMO
		:: vm[i] != NOVM && ((st[i] == SPREP && empty(ch[0]) && empty(ch[1]) && !(st[j] == SWAIT && ses[j] == ses[i] && w[i] == 1 && OK)) ||
			(st[i] == SARM && (BROKEN(i) || !OK)) || (st[i] == SREC && BROKEN(i))) -> go = FAILSYNC
		:: st[i] == SREC && w[i] == TOSEND && sw[i] == 0 -> swap(i, j)
		:: st[i] == SREC && w[i] == SENT && sw[i] == 2 -> sw[i] = 0; kGen[i] = swGen[i] + 1; kSpk[i] = i; kStb[i] = j;
			st[i] = PROTP; w[i] = 0; say = ARMED
		:: st[i] == SREC && w[i] == SENT && sw[i] == 3 -> sw[i] = 0; look(i); if :: MINE(i) -> go = TOCLAIM :: else -> go = TOFENCED fi
		:: st[i] == SREC && w[i] == LOOKED ->
			if
			:: !MINE(i) -> go = TOFENCED
			:: MINE(i) && kStb[i] == j && kGen[i] == swGen[i] + 1 -> st[i] = PROTP; w[i] = 0; say = ARMED
			:: else -> want(i)
			fi
		:: (st[i] == SREC || st[i] == PROTP) && vm[i] == NOVM -> say = VMDIED; go = TOIDLE

		/* Protected, speaker. */
		:: st[i] == PROTP && vm[i] != NOVM && (BROKEN(i) || (ck[i] != 0 && !OK)) -> go = TOCLAIM
		:: st[i] == PROTP && ck[i] == 0 && vm[i] == COLOP && dp[i] == PRIM && !hold[i] && cover[i] == 0 -> ck[i] = 1; hold[i] = 1

		/* Switching: the other node's swap decides; this VM is kept until that node speaks. */
		:: st[i] == SWITCH && kGen[i] != recGen && sw[i] == 0 -> look(i)
		:: st[i] == SWITCH && !MINE(i) && (!up[i] || st[j] == SOLO || SPEAKER(j)) -> go = TOFENCED
		:: st[i] == SWITCH && vm[i] == NOVM -> say = VMDIED; go = TOIDLE
		:: st[i] == SWITCH && vm[i] != NOVM && MINE(i) && LONG(i) -> go = TAKEBACK
#ifdef BAD_SWITCH
		:: st[i] == SWITCH && vm[i] == COLOP && paused[i] -> paused[i] = 0; go = TOPROMO; freeing[i] = 1
#endif

		/* The checkpoint: both hold; QEMU is asked; the primary's RESUME; what is covered goes out (process path). */
		:: ck[i] == 1 && inck[j] && net && OK -> ck[i] = 2; if :: relay -> qk = 2 :: else fi
		:: ck[i] == 2 && evP != 0 -> ck[i] = 3; cover[i] = evP; evP = 0
		:: ck[i] == 3 && cover[i] == 0 -> ck[i] = 0;
			if
			:: st[i] == SARM -> st[i] = SREC; want(i)
			:: st[i] == PROTP && planned[i] -> planned[i] = 0; paused[i] = 1; st[i] = SWITCH; say = HANDOVER
			:: else
			fi

		/* Syncing and protected, secondary. STOP and RESUME of a checkpoint reach the data path. */
		:: TAKER(i) && sload -> sload = 0; inck[i] = 0
		:: TAKER(i) && vm[i] == NOVM -> say = VMDIED; go = TOSTANDBY
		:: st[i] == SWAIT && vm[i] != NOVM && empty(ch[i]) && !(SPEAKER(j) && ses[j] == ses[i]) -> st[i] = SASK; w[i] = 0
		:: st[i] == SASK && w[i] == 0 -> look(i); w[i] = LOOKED
		:: st[i] == SASK && w[i] == LOOKED -> if :: kStb[i] == i -> go = TOCLAIM :: else -> go = TOFENCED fi

		/* Claiming. The answer to an earlier swap is not waited for, but the next swap is sent after it. */
		:: (st[i] == CLAIM || st[i] == SREC) && w[i] == TOSEND && sw[i] >= 2 -> sw[i] = 0
		:: st[i] == CLAIM && w[i] == TOSEND && sw[i] == 0 -> swap(i, NONE)
		:: st[i] == CLAIM && w[i] == SENT && sw[i] == 2 -> sw[i] = 0; kGen[i] = swGen[i] + 1; kSpk[i] = i; kStb[i] = NONE; go = TOPROMO
		:: st[i] == CLAIM && w[i] == SENT && sw[i] == 3 -> sw[i] = 0; look(i); go = AGAIN
		:: (st[i] == CLAIM || st[i] == SREC) && w[i] == SENT && sw[i] == 4 -> sw[i] = 0; w[i] = UNSURE
		:: (st[i] == CLAIM || st[i] == SREC) && w[i] == UNSURE -> look(i); w[i] = LOOKED
		:: st[i] == CLAIM && w[i] == LOOKED -> go = AGAIN
		:: st[i] != CLAIM && st[i] != SREC && st[i] != OFF && sw[i] >= 2 -> sw[i] = 0; swGen[i] = 0; swStb[i] = 0 /* an answer that nobody waits for */

		/* Promoting: launch if there is no VM; the data path speaks (process path); then solo. */
		:: st[i] == PROMO && vm[i] == NOVM && !muting[i] ->
#ifdef KEEP
			assert(!kept);
#endif
			/* a guest that is started anew begins a new history */
			vm[i] = FREE; fit[i] = 1; fit[j] = 0; cfit = 0;
			if :: tok != 0 -> tok = 3 :: else fi;
			if :: evP != 0 -> evP = 3 :: else fi;
			if :: cover[i] != 0 -> cover[i] = 3 :: else fi;
			if :: cover[j] != 0 -> cover[j] = 3 :: else fi
		:: st[i] == PROMO && spoken[i] && !freeing[i] && vm[i] == FREE -> st[i] = SOLO; spoken[i] = 0

		/* Fenced: end the VM, be mute. */
		:: st[i] == FENCED && vm[i] != NOVM -> endVM(i)
		:: st[i] == FENCED && vm[i] == NOVM && !muting[i] -> go = TOSTANDBY
		fi;

		/* Where it leads. */
		if
		:: go == LOSTPEER && SYNCING(i) -> go = FAILSYNC
		:: go == LOSTPEER && st[i] == PROTP -> go = TOCLAIM
		:: go == LOSTPEER && st[i] == SWITCH -> go = TAKEBACK
#ifdef BAD_PROMOTE
		:: go == LOSTPEER && (st[i] == PROTS || st[i] == SWAIT) -> go = TOPROMO; freeing[i] = 1
#else
		:: go == LOSTPEER && st[i] == SWAIT -> go = 0; st[i] = SASK; w[i] = 0
		:: go == LOSTPEER && st[i] == PROTS -> go = TOCLAIM
#endif
		:: else
		fi;
		if
		:: go == FAILSYNC ->
			say = ABORT;
			if
			:: st[i] == SREC -> go = TOCLAIM
			:: st[i] == SPREP -> go = 0; cutSession(i); st[i] = SOLO
			:: else -> go = TOPROMO; freeing[i] = (vm[i] != NOVM)
			fi
		:: go == TAKEBACK && MINE(i) -> go = TOCLAIM
		:: go == TAKEBACK && !MINE(i) -> go = TOFENCED
		:: go == AGAIN && WON(i) -> go = TOPROMO
		:: go == AGAIN && !WON(i) && (MINE(i) || kStb[i] == i) -> go = 0; want(i)
		:: go == AGAIN && !WON(i) && !(MINE(i) || kStb[i] == i) -> go = TOFENCED
		:: else
		fi;
		if
		:: say == REFUSED || say == PREPARED -> send(i, say, s)
		:: say != 0 && say != REFUSED && say != PREPARED -> send(i, say, ses[i])
		:: else
		fi;
		if :: go == TOCLAIM && !MAYCLAIM(i) -> go = TOFENCED :: else fi;
		if :: go >= TOCLAIM -> cutSession(i); w[i] = 0; spoken[i] = 0; planned[i] = 0 :: else fi;
		/* A number that nobody looks at any more is cleared, so that equal states are equal. */
		if :: go > TOCLAIM && sw[i] == 0 -> swGen[i] = 0; swStb[i] = 0 :: else fi;
		if :: go > TOCLAIM -> base[i] = 0 :: else fi;
		if
		:: go == TOCLAIM -> assert(vm[i] != INCOM); st[i] = CLAIM; want(i); freeing[i] = (vm[i] != NOVM)
		:: go == TOPROMO -> st[i] = PROMO
		:: go == TOFENCED -> st[i] = FENCED; muting[i] = 1; freeing[i] = 0
		:: go == TOSTANDBY -> st[i] = STANDBY; muting[i] = 1; ses[i] = 0
		:: go == TOIDLE -> st[i] = IDLE; muting[i] = 1; known[i] = 0
		:: else
		fi;
		kind = 0; s = 0; gen = 0; say = 0; go = 0 }
	od
}

/* The VM's own steps and the lane on which they are done: freeing it from COLO. */
proctype lane(byte i)
{
	byte j = 1 - i;
	do
	:: atomic { freeing[i] && vm[i] != NOVM ->
		if
		:: vm[i] == COLOS ->
			if :: qk == 3 -> load(i) :: else fi; /* it was received as a whole: the VM goes on from it */
			qk = 0;
#ifndef BAD_TELL
			sload = 0; inck[i] = 0
#endif
		:: vm[i] == COLOP -> if :: qk == 2 || qk == 4 -> qk = 0 :: else fi
		:: else
		fi;
		vm[i] = FREE; freeing[i] = 0; paused[i] = 0 }
	od
}

/* The data path of a node. */
proctype path(byte i)
{
	byte j = 1 - i;
	do
	/* alone, by the record's authority; also by the kernel while colod does not run */
	:: atomic { RUNS(i) && (dp[i] == ALONE || (dp[i] == PRIM0 && !hold[i])) -> releaseAlone(i) };
#ifdef PROGRESS
progress_alone:	skip
#endif
	/* what both said */
	:: atomic { dp[i] == PRIM && !hold[i] && tok != 0 -> releaseBoth(i, tok); tok = 0 };
#ifdef PROGRESS
progress_agreed:	skip
#endif
	/* what a checkpoint covers */
	:: atomic { cover[i] != 0 && (dp[i] == PRIM || dp[i] == PRIM0) && hold[i] -> releaseBoth(i, cover[i]); cover[i] = 0; hold[i] = 0; dp[i] = PRIM };
#ifdef PROGRESS
progress_covered:	skip
#endif
#ifdef BAD_RELEASE
	:: atomic { dp[i] == PRIM && st[i] == CLAIM && vm[i] != NOVM -> fit[j] = 0; cfit = 0; assert(fit[i]) }
#endif
	/* secondary: holds for a checkpoint; describes */
	:: atomic { dp[i] == SECO && net && OK && hold[j] && ck[j] == 1 && !inck[i] -> inck[i] = 1; tok = 0 }
	:: atomic { dp[i] == SECO && net && !cut[j] && !inck[i] && tok == 0 && RUNS(i) -> tok = 1 }
	/* what the machine asks for */
	:: atomic { muting[i] -> muting[i] = 0; if :: dp[i] >= PRIM0 -> net = 0 :: else fi; if :: dp[i] == PRIM -> tok = 0 :: else fi; dp[i] = MUTE; hold[i] = 0; inck[i] = 0; cover[i] = 0 }
	:: atomic { st[i] == PROMO && !spoken[i] && !muting[i] && vm[i] != NOVM &&
			!(dp[i] == SECO && freeing[i] && (qk != 0 || sload || inck[i])) ->
		if
		:: dp[i] == SECO -> assert(!sload); net = 0; inck[i] = 0; releaseAlone(i) /* what the former speaker is not known to have released */
		:: dp[i] == PRIM || dp[i] == PRIM0 -> net = 0; tok = 0; releaseAlone(i) /* what was held */
		:: else
		fi;
		hold[i] = 0; cover[i] = 0; dp[i] = ALONE; spoken[i] = 1 }
	od
}

/* The two QEMU in COLO. */
proctype qemu()
{
	do
	:: atomic { qk == 2 && relay && OK && vm[pri] == COLOP && vm[other(pri)] == COLOS -> qk = 3; cfit = fit[pri] }
	:: atomic { qk == 3 && vm[other(pri)] == COLOS -> load(other(pri)) }
	:: atomic { qk == 4 && relay && OK && vm[pri] == COLOP -> qk = 0; evP = 1 }
	od
}

/* The arbiter. */
inline apply(x, gen, standby, done) {
	if
	:: recGen == gen -> recGen++; recSpk = x; recStb = standby; done = 2
	:: else -> done = 3
	fi
}

proctype arbiter()
{
	byte none;
	do
	:: atomic { sw[0] == 1 -> apply(0, swGen[0], swStb[0], sw[0]) }
	:: atomic { sw[1] == 1 -> apply(1, swGen[1], swStb[1], sw[1]) }
	:: atomic { late[0] -> late[0] = 0; apply(0, lateGen[0], lateStb[0], none); none = 0; lateGen[0] = 0; lateStb[0] = 0 }
	:: atomic { late[1] -> late[1] = 0; apply(1, lateGen[1], lateStb[1], none); none = 0; lateGen[1] = 0; lateStb[1] = 0 }
	od
}

inline giveUp(x) {
	if
	:: sw[x] == 1 && !late[x] -> late[x] = 1; lateGen[x] = swGen[x]; lateStb[x] = swStb[x]
	:: else
	fi
}

inline stopColod(x) {
	giveUp(x); sw[x] = 0;
	st[x] = OFF; w[x] = 0; ses[x] = 0; kGen[x] = 0; kSpk[x] = 0; kStb[x] = 0; known[x] = 0; ck[x] = 0;
	up[x] = 0; rs[x] = 0; freeing[x] = 0; muting[x] = 0; spoken[x] = 0; planned[x] = 0; base[x] = 0; swGen[x] = 0; swStb[x] = 0;
	flush(ch[x]);
	/* the relay and the data path end with the process; the filters stay: mute, or the kernel goes on alone */
	if :: vm[x] == COLOP || vm[x] == COLOS -> relay = 0 :: else fi;
	if :: dp[x] == PRIM || dp[x] == PRIM0 -> tok = 0 :: else fi;
	if :: dp[x] >= PRIM0 -> net = 0; dp[x] = MUTE :: else fi;
	hold[x] = 0; inck[x] = 0; cover[x] = 0
}

/* Each of these counts as one fault; a process that merely does not move for a while is none. */
proctype environment()
{
	byte x, what;
	do
	:: FAULT -> atomic { FAULT -> SPEND;
		if :: x = 0 :: x = 1 fi;
		if
#ifndef ONLY_SWAPS
		:: !cut[x] -> cut[x] = 1                                              /* nothing reaches x from the other node */
		:: OK -> cut[0] = 1; cut[1] = 1                                       /* nothing reaches either */
		:: st[x] != OFF -> stopColod(x);                                        /* colod ends */
			if :: true :: true -> what = 2 fi                              /* or the whole host */
		:: vm[x] != NOVM -> what = 3                                          /* QEMU ends */
		:: st[x] == PROTP ->                                                  /* an operator wants the other node to speak */
			send(x, VMDIED, ses[x]); cutSession(x); st[x] = IDLE; w[x] = 1; muting[x] = 1; known[x] = 0
		:: st[x] == PROTP && !planned[x] -> planned[x] = 1                      /* or that both exchange their roles */
		:: net || relay -> net = 0                                            /* a link of the session breaks */
		:: net || relay -> relay = 0
		:: up[0] && up[1] -> flush(ch[0]); flush(ch[1])                       /* the connection of the machines breaks and comes again at once */
#endif
		:: sw[x] != 0 && sw[x] != 4 -> giveUp(x); sw[x] = 4                   /* a swap has no answer: it may be carried out later, or was */
		:: late[x] -> late[x] = 0                                             /* or never is */
		:: else
		fi;
		if :: what >= 2 -> endVM(x) :: else fi;
		if :: what == 2 -> dp[x] = MUTE :: else fi;
		x = 0; what = 0 }
	od
}

/* Repairs. */
proctype repair()
{
	do
	:: atomic { cut[0] -> cut[0] = 0 }
	:: atomic { cut[1] -> cut[1] = 0 }
#ifndef LOST
	:: atomic { st[0] == OFF -> st[0] = IDLE; rs[1] = up[1] }
	:: atomic { st[1] == OFF -> st[1] = IDLE; rs[0] = up[0] }
#endif
	/* The machines are connected again; a speaker repeats that the record names its standby. */
	:: atomic { st[0] != OFF && st[1] != OFF && OK && !(up[0] && up[1]) ->
		flush(ch[0]); flush(ch[1]); up[0] = 1; up[1] = 1;
		if :: st[0] == PROTP -> ch[1]!ARMED,ses[0],kGen[0] :: else fi;
		if :: st[1] == PROTP -> ch[0]!ARMED,ses[1],kGen[1] :: else fi }
	:: atomic { st[0] == PROTP && st[1] == SWAIT && up[0] && up[1] && empty(ch[1]) && ses[0] == ses[1] -> ch[1]!ARMED,ses[0],kGen[0] }
	:: atomic { st[1] == PROTP && st[0] == SWAIT && up[0] && up[1] && empty(ch[0]) && ses[0] == ses[1] -> ch[0]!ARMED,ses[1],kGen[1] }
	od
}

#ifdef LOST
/* Standing still is right only if what is lost was the only copy, or the only one that may say so. Run with -E. */
proctype watch()
{
	atomic { timeout -> assert(st[recSpk] == OFF && (recStb == NONE || vm[recStb] == NOVM || st[recStb] == OFF)) }
}
#endif

init {
	atomic {
		st[0] = SOLO; vm[0] = FREE; dp[0] = ALONE; fit[0] = 1; kGen[0] = 1; kStb[0] = NONE; known[0] = 1;
		st[1] = STANDBY; kGen[1] = 1; kStb[1] = NONE; known[1] = 1;
		up[0] = 1; up[1] = 1;
		run node(0); run node(1); run lane(0); run lane(1); run path(0); run path(1);
		run qemu(); run arbiter(); run environment(); run repair();
#ifdef LOST
		run watch()
#endif
	}
}
