// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Numbered, Relay} from "../../src/interfaces/IComputeEscrow.sol";
import {World} from "./World.sol";

/// @notice Purses, who speaks for an account, and the numbers of orders and signed calls that are used or void.
abstract contract Accounts is World {
    /// @dev `put`: atoms that its owner put in, `swept`: took back, `fees`: paid to relayers.
    struct KnownPurse {
        address account;
        address owner;
        address operator;
        uint64 salt;
        uint40 expiry;
        uint256 put;
        uint256 swept;
        uint256 fees;
    }

    KnownPurse[] internal _purses;
    mapping(address account => uint256 index) internal _purseIndexes; // + 1

    mapping(address account => mapping(Numbered => mapping(uint64 salt => bool))) internal _cancelled;
    mapping(address account => mapping(Numbered => uint64)) internal _saltsFrom;
    mapping(address account => mapping(uint64 salt => bool)) private _sent; // calls, not orders
    uint64 internal _lastCall;

    /* WHAT TESTS READ */

    function purses() external view returns (KnownPurse[] memory) {
        return _purses;
    }

    function lastCall() external view returns (uint64) {
        return _lastCall;
    }

    /* WHO SPEAKS */

    function _isPurse(address account) internal view returns (bool) {
        return _purseIndexes[account] > 0;
    }

    function _purse(address account) internal view returns (KnownPurse storage) {
        return _purses[_purseIndexes[account] - 1];
    }

    /// @dev Whether this is the account, or the owner or operator of the purse that it is.
    function _speaksFor(address account, address who) internal view returns (bool) {
        if (who == account || !_isPurse(account)) return who == account;
        return who == _purse(account).owner || who == _purse(account).operator;
    }

    /// @dev One who speaks for the account, and has a key.
    function _speaker(address account) internal returns (address) {
        if (!_isPurse(account)) return account;
        return _once(2) ? _purse(account).owner : _purse(account).operator;
    }

    /// @dev Who signs the account's bids.
    function _bidder(address account) internal view returns (address) {
        return _isPurse(account) ? _purse(account).operator : account;
    }

    function _maySpend(address account) internal view returns (bool) {
        return !_isPurse(account) || vm.getBlockTimestamp() <= _purse(account).expiry;
    }

    /* NUMBERS */

    function _isLive(address account, Numbered kind, uint64 salt) internal view returns (bool) {
        return !_cancelled[account][kind][salt] && salt >= _saltsFrom[account][kind];
    }

    /* SIGNED CALLS */

    /// @dev Terms of a relayed call that are right, more often than not.
    function _someRelay(address sender, uint256 mostFee) internal returns (Relay memory relay) {
        relay.salt = _once(8) && _lastCall > 0 ? _lastCall - uint64(_draw(_least(_lastCall, 8))) : ++_lastCall;
        relay.deadline = _once(12) ? uint40(vm.getBlockTimestamp() - 1) : uint40(vm.getBlockTimestamp() + _draw(600));
        if (_once(3)) relay.relayer = _once(4) ? _anyone() : sender;
        if (_once(2)) relay.fee = uint96(_draw(mostFee + 1));
    }

    /// @dev Whether the escrow must take the number and the fee from an account that has consented.
    function _relays(address account, Relay memory relay, address sender) internal view returns (bool) {
        bool free = _isLive(account, Numbered.Calls, relay.salt) && !_sent[account][relay.salt];
        bool fits = relay.relayer == address(0) || relay.relayer == sender;
        return free && fits && vm.getBlockTimestamp() <= relay.deadline && relay.fee <= _balances[account];
    }

    function _noteRelay(address account, Relay memory relay, address sender) internal {
        _sent[account][relay.salt] = true;
        _give(account, sender, relay.fee);
        if (_isPurse(account)) _purse(account).fees += relay.fee;
    }

    /// @dev Moves atoms between two accounts' balances.
    function _give(address from, address to, uint256 amount) internal {
        _involve(from);
        _involve(to);
        given[from] -= int256(amount);
        given[to] += int256(amount);
    }
}
